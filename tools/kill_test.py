"""Kill trainings at random moments, resume them, and compare the weights with those of an unbroken training.

    python tools/kill_test.py [CASE ...] [--kills 20] [--seed 0]

Each case is a small training on synthetic shapes by `detseg train`: once without a break, then again and again with a
SIGKILL to all its processes at a random moment of that time, followed by ``--resume auto`` until it ends. Every tensor
of last.ckpt and best.ckpt, the optimizer's included, must be equal, and so must metrics.json but for times. Prints a
line for each kill; exit status 1 if any differs. Trainings are forked, which saves the start of Python.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from forked import fork
from torch import Tensor

from detseg.cli import train  # noqa: F401 - the imports of a training, before it is forked

DATA = ["--data.train", "10", "--data.val", "5"]
SMALL = [
    *(*DATA, "--data.batch_size", "2", "--checkpoint.every_steps", "1", "--trainer.accelerator", "cpu"),
    *("--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1"),
]
FASTER = ["--config", "faster_rcnn_shapes.yaml", "--config", "tiny.yaml"]
MASK = ["--config", "mask_rcnn_shapes.yaml", "--config", "tiny.yaml"]
RANKS = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
CASES = {
    "faster": [*FASTER, "--data.num_workers", "0"],
    "faster_workers": [*FASTER, "--data.num_workers", "3"],
    "faster_accumulated": [*FASTER, "--trainer.accumulate_grad_batches", "2"],
    "faster_ema": [*FASTER, "--ema", "0.9"],
    "faster_two_ranks": [*FASTER, *RANKS],
    "faster_bad_samples": [*FASTER, "--data.bad_samples", "skip"],
    "mask_mixing": [*MASK, "--config", "mixing.yaml"],
    "mask_mixing_two_ranks": [*MASK, "--config", "mixing.yaml", *RANKS],
    "fcn": ["--config", "fcn_shapes.yaml"],
    "classifier": ["--config", "classifier.yaml"],
    "rcnn": ["--config", "rcnn.yaml", "--data.proposals", "../proposals"],
}
FILES = {
    "tiny.yaml": """\
model:
  init_args:
    backbone:
      init_args:
        channels: 32
        backbone: {class_path: MobileNetV1, init_args: {alpha: 0.25, stages: [2, 3, 4]}}  # its checkpoints are small
    roi_heads: {box_head: {init_args: {channels: 32}}}
""",
    "mixing.yaml": """\
data:
  init_args:
    transforms:
      - {class_path: LargeScaleJitter, init_args: {size: 128, max_size: 160}}
      - {class_path: CopyPaste}
      - {class_path: Mosaic}
      - {class_path: RandomHorizontalFlip}
""",
    "classifier.yaml": """\
model: {class_path: Classifier, init_args: {backbone: SqueezeNet}}  # with dropout
data: {class_path: ShapeCrops}
""",
    "rcnn.yaml": """\
model:
  class_path: RCNN
  init_args: {backbone: {class_path: MobileNetV1, init_args: {alpha: 0.25}}, crop_size: 64, context: 4}
data: {class_path: Shapes}
""",
}


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Walk through all tensors in a checkpoint."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from tensors(item, f"{name}.{Path(key).name if isinstance(key, str) else key}")  # no folders


def differences(first: Path, second: Path) -> list[str]:
    """Name the tensors in which two checkpoints differ, or the values of two metrics.json."""
    if first.suffix == ".json":
        one, other = (json.loads(path.read_text(encoding="utf-8")) for path in (first, second))
        names = [name for name in one.keys() | other.keys() if "second" not in name]
        return [name for name in names if str(one.get(name)) != str(other.get(name))]  # as text, for NaN
    one, other = (dict(tensors(torch.load(path, weights_only=True))) for path in (first, second))
    return [name for name in one.keys() | other.keys() if not same(one.get(name), other.get(name))]


def same(one: Tensor | None, other: Tensor | None) -> bool:
    """Tell if both are there and equal in every element, NaN included."""
    return one is not None and other is not None and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def start(arguments: Sequence[str], folder: Path) -> list[int]:
    """Fork the ranks of a training in a folder of its own; returns their process ids."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in FILES.items():
        (folder / name).write_text(content, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        rank = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "NODE_RANK": "0"}
    command = ["train", *arguments, *SMALL, "--name", "run", "--resume", "auto"]
    ranks = [rank | {"WORLD_SIZE": "2", "RANK": number, "LOCAL_RANK": number} for number in "01"]
    return [fork(command, folder, variables) for variables in (ranks if "ddp" in arguments else [{}])]


def ended(processes: Sequence[int]) -> bool:
    """Wait for processes; tell if all of them succeeded."""
    statuses = [os.waitpid(process, 0)[1] for process in processes]  # all, else some would stay zombies
    return not any(statuses)


def attempt(arguments: Sequence[str], folder: Path, unbroken: Path, moment: float) -> str:
    """Kill a training after ``moment`` seconds, resume it, and return what differs as text."""
    processes = start(arguments, folder)
    time.sleep(moment)
    for process in processes:
        with suppress(ProcessLookupError):  # it ended before, on a machine that is quicker now
            os.killpg(process, signal.SIGKILL)
    ended(processes)
    if not ended(start(arguments, folder)):
        return "the resumed training failed: " + (folder / "output.txt").read_text(encoding="utf-8")[-500:]
    names = [
        f"{file}: {name}"
        for file in ("last.ckpt", "best.ckpt", "metrics.json")
        for name in differences(unbroken / file, folder / "runs" / "run" / file)
    ]
    return f"{len(names)} values differ, such as {names[0]}" if names else ""


def prepare(case: str, folder: Path) -> list[str]:
    """Draw the data set of a case, with what it needs besides; returns the arguments of its training."""
    root = ["--data.root", str(folder / "shapes")]
    if case in ("rcnn", "faster_bad_samples"):
        command = ["propose", "--data", "Shapes", *root, *DATA, "--method", "grid", "--out", "proposals"]
        if not ended([fork(command, folder, {})]):
            sys.exit(f"{case}: {(folder / 'output.txt').read_text(encoding='utf-8')[-2000:]}")
    if case == "faster_bad_samples":
        (folder / "shapes" / "voc" / "JPEGImages" / "000003.jpg").open("r+").truncate(200)
    return [*CASES[case], *root]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(CASES)}; default: all")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; the cases are {', '.join(CASES)}")
    torch.set_num_threads(1)  # a thread pool does not survive a fork
    failed = 0
    for case in options.cases or CASES:
        generator = random.Random(f"{options.seed} {case}")
        with tempfile.TemporaryDirectory() as temporary:
            arguments = prepare(case, Path(temporary))
            whole = Path(temporary) / "whole"
            began = time.monotonic()
            if not ended(start(arguments, whole)):
                sys.exit(f"{case}: {(whole / 'output.txt').read_text(encoding='utf-8')[-2000:]}")
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
