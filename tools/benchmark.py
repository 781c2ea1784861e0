"""Measure detseg against its peers: the same weights, images, threads and precision, in turns, in one run.

    python tools/benchmark.py [PART ...] [--precision fp32 bf16] [--device cuda] [--json FILE]

``train`` and ``infer`` are Faster R-CNN R50-FPN at 480 x 640, ``fcn_train`` and ``fcn_infer`` the dilated FCN R50 at
480 x 480, ``roi_align`` and ``nms`` what detectors spend their time in. ``masks`` are 100 small masks that become run
lengths of an image of 800 x 1333 pixels, the other side being detectron2's way; ``targets`` are those of 128 regions in
each of 16 images of 480 x 640 with 7 objects, resized to 800 x 1067, the other side taking whole maps as torchvision
does. ``data`` makes samples for training of 32 JPEG files of 480 x 640, and says first what each stage takes of a core;
``annotations`` reads a COCO file a tenth as large as that of train2017. ``evaluate`` is COCO's evaluation of 500,000
detections; ``startup`` a new process until the package is imported.

Other work on a machine disturbs all sides alike only if they alternate, so they do; read the ratio, not the seconds.
Peers have channels_last and autocast too. On a GPU it also counts how often a call makes the host wait.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torchvision
from benchmarks import data, detectors, evaluation, masks, segmenters
from benchmarks.detectors import Call

PARTS = {
    "train": detectors.train,
    "infer": detectors.infer,
    "roi_align": detectors.pooling,
    "nms": detectors.nms,
    "fcn_train": segmenters.train,
    "fcn_infer": segmenters.infer,
    "masks": masks.encoding,
    "targets": masks.targets,
    "data": data.images,
    "annotations": data.annotation_files,
    "evaluate": evaluation.evaluate,
    "startup": detectors.startup,
}
IN_BOTH = ("train", "infer", "roi_align", "fcn_train", "fcn_infer")  # parts that half precision changes
PEERS = (
    "torchvision",
    "detectron2's way",
    "whole maps",
    "faster-coco-eval",
    "torchvision v2",
    "albumentations + cv2",
    "pycocotools",
)


def measure(sides: dict[str, Call], repeats: int, device: str) -> dict[str, dict[str, Any]]:
    """Milliseconds of each side, called in turns after one call that does not count; on a GPU, how often it waits."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn > 0:
                times[name].append(1000 * (time.perf_counter() - start))
    found: dict[str, dict[str, Any]] = {
        name: {"ms": statistics.median(each), "least": min(each), "variation": statistics.pstdev(each) / max(each)}
        for name, each in times.items()
    }
    if device == "cuda":
        for name, call in sides.items():
            found[name]["waits"] = waits(call)
    return found


def waits(call: Call) -> int:
    """How often the host waits for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", default=[], metavar="part", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"{', '.join(unknown)}: not a part; there are {', '.join(PARTS)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU here")
    torch.set_num_threads(arguments.threads)
    machine = {
        "machine": torch.cuda.get_device_name() if arguments.device == "cuda" else platform.machine(),
        "threads": arguments.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"{'':16}{'detseg':>12}{'best peer':>14}{'ratio':>8}")
    figures: dict[str, Any] = {}
    for part in arguments.parts or PARTS:
        for precision in arguments.precision if part in IN_BOTH else ["fp32"]:
            name = f"{part} {precision}" if part in IN_BOTH else part
            found = measure(PARTS[part](arguments.device, precision == "bf16"), arguments.repeats, arguments.device)
            ours = found["detseg"]["ms"]
            theirs, peer = min((found[side]["ms"], side) for side in PEERS if side in found)
            print(f"{name:16}{ours:9.1f} ms{theirs:11.1f} ms{theirs / ours:8.2f}  {peer}", flush=True)
            figures[name] = {**found, "ratio": theirs / ours}
    if arguments.json:
        arguments.json.write_text(json.dumps({**machine, "parts": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
