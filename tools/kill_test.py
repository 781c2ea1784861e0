"""Kill trainings at random moments, resume them, and compare the weights with those of an unbroken training.

    python tools/kill_test.py [CASE ...] [--kills 20] [--seed 0]

Each case trains a small network on drawn shapes by `detseg train`, once without a break, then again and again with a
SIGKILL at a random moment of that time, followed by ``--resume auto`` until it ends. Every tensor of last.ckpt and
best.ckpt, the optimizer's included, must be equal. Prints a line for each kill; exit status 1 if any differs.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TRAIN = Path(__file__).with_name("train.py")
SMALL = [
    *("--data.train", "16", "--data.val", "4", "--data.batch_size", "4", "--checkpoint.every_steps", "1"),
    *("--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1", "--trainer.accelerator", "cpu"),
]
CASES = {
    "faster": ["--config", "faster_rcnn_shapes.yaml"],
    "faster_workers": ["--config", "faster_rcnn_shapes.yaml", "--data.num_workers", "3"],
    "faster_accumulated": ["--config", "faster_rcnn_shapes.yaml", "--trainer.accumulate_grad_batches", "2"],
    "faster_ema": ["--config", "faster_rcnn_shapes.yaml", "--ema", "0.9"],
    "faster_two_ranks": ["--config", "faster_rcnn_shapes.yaml", "--trainer.devices", "2", "--trainer.strategy", "ddp"],
    "mask": ["--config", "mask_rcnn_shapes.yaml"],
    "fcn": ["--config", "fcn_shapes.yaml"],
}


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Walk through all tensors in a checkpoint."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from tensors(item, f"{name}.{Path(key).name if isinstance(key, str) else key}")  # no folders


def differences(first: Path, second: Path) -> list[str]:
    """Name the tensors in which two checkpoints differ."""
    one, other = (dict(tensors(torch.load(path, weights_only=True))) for path in (first, second))
    return [name for name in one.keys() | other.keys() if not same(one.get(name), other.get(name))]


def same(one: Tensor | None, other: Tensor | None) -> bool:
    """Tell if both are there and equal in every element, NaN included."""
    return one is not None and other is not None and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def start(arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start or resume a training in a folder of its own, in a process group of its own."""
    command = [sys.executable, str(TRAIN.resolve()), *arguments, *SMALL, "--name", "run", "--resume", "auto"]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, start_new_session=True)


def attempt(arguments: list[str], folder: Path, unbroken: Path, moment: float) -> str:
    """Kill a training after ``moment`` seconds, resume it, and return the tensors that differ as text."""
    process = start(arguments, folder)
    time.sleep(moment)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if start(arguments, folder).wait():
        return "the resumed training failed: " + (folder / "output.txt").read_text()[-500:]
    names = [
        f"{file}: {name}"
        for file in ("last.ckpt", "best.ckpt")
        if (unbroken / file).exists()
        for name in differences(unbroken / file, folder / "runs" / "run" / file)
    ]
    return f"{len(names)} tensors differ, such as {names[0]}" if names else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(CASES)}; default: all")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; the cases are {', '.join(CASES)}")
    failed = 0
    for case in options.cases or CASES:
        generator = random.Random(f"{options.seed} {case}")
        with tempfile.TemporaryDirectory() as temporary:
            arguments = [*CASES[case], "--data.root", str(Path(temporary) / "shapes")]
            began = time.monotonic()
            whole = Path(temporary) / "whole"
            if start(arguments, whole).wait():
                sys.exit(f"{case}: {(whole / 'output.txt').read_text()[-2000:]}")
            seconds = time.monotonic() - began
            for number in range(options.kills):
                moment = generator.uniform(0, seconds)
                folder = Path(temporary) / f"killed{number}"
                result = attempt(arguments, folder, whole / "runs" / "run", moment)
                failed += bool(result)
                print(f"{case}: killed after {moment:.1f} s of {seconds:.1f}: {result or 'equal'}", flush=True)
                shutil.rmtree(folder)
    sys.exit(f"{failed} trainings differ" if failed else 0)


if __name__ == "__main__":
    main()
