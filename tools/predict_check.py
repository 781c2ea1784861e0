"""Check long predictions: killed and resumed, their memory, and divided over processes.

    python tools/predict_check.py [kill] [memory] [ranks] [--images 2000] [--kills 10] [--seed 0]

``kill`` predicts on small drawn images in two shards, each stopped again and again by SIGKILL at a random moment and
resumed, and merges them: every image must be there exactly once, with the result of a run without a break. ``memory``
prints the memory of one run by the number of images done. ``ranks`` compares the results of 1, 2 and 3 processes, and
of Ray Data on this machine if it is installed. Exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from forked import fork
from PIL import Image

from detseg import checkpoint
from detseg.cli import merge, predict  # noqa: F401 - their imports, before processes are forked
from detseg.models import FasterRCNN
from detseg.modules import FPN, RPN
from detseg.modules.backbones import MobileNetV1
from detseg.preprocessing import ResizeConfig
from detseg.tasks import DetectionTask

SIDE = 32  # pixels of an image
MEBIBYTE = 1 << 20

Results = dict[str, dict[str, Any]]


def draw(folder: Path, count: int) -> None:
    """Write images of coloured rectangles, and a checkpoint of a small detector with random weights."""
    generator = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(count):
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        (left, top), (width, height) = generator.integers(0, SIDE // 2, 2), generator.integers(4, SIDE // 2, 2)
        image[top : top + height, left : left + width] = generator.integers(0, 256, 3)
        Image.fromarray(image).save(folder / "images" / f"{number:06}.png")
    torch.manual_seed(0)
    model = FasterRCNN(FPN(MobileNetV1(alpha=0.125), channels=8), 3, RPN(post_nms_top_n=(10, 10)))
    model.class_names, model.preprocessing = ("a", "b", "c"), ResizeConfig(SIDE, SIDE)
    checkpoint.save(DetectionTask(model), folder / "best.ckpt")


def command(out: str, *options: str) -> list[str]:
    return ["predict", "images", "--checkpoint", "best.ckpt", "--threshold", "0", "--out", out, *options]


def run(folder: Path, out: str, *options: str) -> Results:
    """Predict without a break, and return the results by image."""
    finish(fork(command(out, "--draw", "none", *options), folder), folder)
    return read(folder / out)


def finish(process: int, folder: Path) -> None:
    """Wait for a process that must succeed."""
    if os.waitpid(process, 0)[1]:
        sys.exit((folder / "output.txt").read_text(encoding="utf-8")[-3000:])


def read(out: Path) -> Results:
    """Read results by image. Ends the program for an image that occurs twice."""
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    results = {line["file"]: line for line in lines}
    if len(results) < len(lines):
        sys.exit(f"{out}: {len(lines) - len(results)} of {len(lines)} lines are of images that occur several times")
    return results


def compare(name: str, results: Results, expected: Results) -> bool:
    """Print the number of images that are missing, or whose results differ; tell if there is any."""
    missing = len(expected.keys() - results.keys())
    different = sum(results[file] != expected[file] for file in results.keys() & expected.keys())
    extra = len(results.keys() - expected.keys())
    print(f"{name}: {len(results)} images, {missing} missing, {extra} more, {different} different", flush=True)
    return bool(missing or extra or different)


def kill(folder: Path, options: argparse.Namespace) -> bool:
    """Kill shards at random moments, resume and merge them, and compare with a run without a break."""
    began = time.monotonic()
    expected = run(folder, "whole")
    seconds = time.monotonic() - began
    generator = random.Random(options.seed)
    shards = [command("killed", "--draw", "20", "--resume", "true", "--shard", f"{number}/2") for number in (1, 2)]
    for number in range(options.kills):
        process = fork(shards[number % 2], folder)
        moment = generator.uniform(0, 2 * seconds / options.kills)
        time.sleep(moment)
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        done = sum(path.read_bytes().count(b"\n") for path in (folder / "killed").glob("*.jsonl*"))
        print(f"killed after {moment:.2f} s of {seconds:.1f}: {done} of {len(expected)} images", flush=True)
    for shard in shards:
        finish(fork(shard, folder), folder)
    finish(fork(["merge", "killed"], folder), folder)
    results = read(folder / "killed")
    pictures = [folder / "killed" / line["picture"] for line in results.values() if "picture" in line]
    for picture in pictures:
        Image.open(picture).load()  # raises an error for a half-written one
    print(f"{len(pictures)} images are drawn")
    without = {file: {key: value for key, value in line.items() if key != "picture"} for file, line in results.items()}
    return compare(f"{options.kills} kills", without, expected) or len(pictures) != 20


def memory(folder: Path, options: argparse.Namespace) -> bool:
    """Print the resident memory of a run by the number of images done."""
    process = fork(command("memory", "--draw", "none", "--batch_size", "50"), folder)
    part = folder / "memory" / "predictions.jsonl.part0"
    step = options.images // 10
    following, done, place = step, 0, 0
    while os.waitpid(process, os.WNOHANG)[0] == 0:
        time.sleep(0.05)
        if part.exists():
            with part.open("rb") as file:
                file.seek(place)
                done += (lines := file.read()).count(b"\n")
                place += len(lines)
        if done >= following and part.exists():
            pages = int(Path(f"/proc/{process}/statm").read_text(encoding="utf-8").split()[1])
            print(f"{done:7} images: {pages * os.sysconf('SC_PAGE_SIZE') / MEBIBYTE:8.1f} MiB", flush=True)
            following += step
    return len(read(folder / "memory")) != options.images


def ranks(folder: Path, options: argparse.Namespace) -> bool:
    """Compare the results of several processes with those of one."""
    expected = run(folder, "one")
    failed = False
    for count in (2, 3):
        began = time.monotonic()
        results = run(folder, f"devices{count}", "--devices", str(count))
        failed |= compare(f"{count} processes, {time.monotonic() - began:.1f} s", results, expected)
    if importlib.util.find_spec("ray"):
        failed |= compare("Ray", ray_results(folder), expected)
    return failed


def ray_results(folder: Path) -> Results:
    """Predict with Ray Data on this machine."""
    import ray

    from detseg.inference import RayPredictor

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    data = ray.data.read_binary_files(str(folder / "images"), include_paths=True)
    settings = {"fn_constructor_args": [str(folder / "best.ckpt")], "fn_constructor_kwargs": {"threshold": 0.0}}
    rows = data.map_batches(RayPredictor, batch_size=64, concurrency=1, **settings).take_all()
    ray.shutdown()
    return {f"images/{Path(row['file']).name}": to_line(row) for row in rows}


def to_line(row: dict[str, Any]) -> dict[str, Any]:
    """Convert a row of Arrow, whose numbers have 32 bits, to a line of JSON."""
    return {
        "file": f"images/{Path(row['file']).name}",
        "size": [row["height"], row["width"]],
        "classes": [*row["classes"]],
        "scores": [round(float(score), 4) for score in row["scores"]],
        "boxes": [[round(float(value), 2) for value in box] for box in row["boxes"]],
    }


CHECKS = {"kill": kill, "memory": memory, "ranks": ranks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"{', '.join(CHECKS)}; default: all")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if unknown := set(options.checks) - set(CHECKS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; the checks are {', '.join(CHECKS)}")
    torch.set_num_threads(1)  # a thread pool does not survive a fork
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw(folder, options.images)
        failed = [name for name in options.checks or CHECKS if CHECKS[name](folder, options)]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
