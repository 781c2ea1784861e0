"""Measure detseg against its peers: the same weights, images, threads and precision, in turns, in one run.

    python tools/benchmark.py [PART ...] [--precision fp32 bf16] [--json FILE]
    python tools/benchmark.py train mask_train infer mask_infer --device cuda --size 800 1344 --batch 12 --compile

``train`` and ``infer`` are Faster R-CNN R50-FPN, ``mask_train`` (with 128 regions of objects in each image) and
``mask_infer`` (with 100 detections) Mask R-CNN R50-FPN, ``mobilenet_train`` Faster R-CNN on MobileNetV3, all at
480 x 640 unless ``--size`` says otherwise; ``fcn_train`` and ``fcn_infer`` the dilated FCN R50 at 480 x 480;
``roi_align`` and ``nms`` what detectors spend their time in. ``masks`` are 100 small masks that become RLE of
an image of 800 x 1333 pixels, the other side being detectron2's way; ``targets`` are those of 128 regions in each of 16
images of 480 x 640 with 7 objects, resized to 800 x 1067, the other side taking whole maps as torchvision does.
``data`` makes samples for training of 32 JPEG files of 480 x 640, and says first what each stage takes of a core;
``annotations`` reads a COCO file a tenth as large as that of train2017. ``evaluate`` is COCO's evaluation of 500,000
detections, ``mask_evaluate`` that of 50,000 masks, from the small ones that a network gives; ``startup`` a new process
until the package is imported. ``predict_mobilenet_v2`` and ``predict_resnet50`` take ``--images`` files of 480 x 640
from their names to lines of JSON, beside torchvision with a DataLoader and our way before it streamed.

Other work on a machine disturbs all sides alike only if they alternate, so they do; read the ratio, not the seconds.
Peers have channels_last and autocast too; detectron2 is one where it can be imported. Of networks it says how many
images a second, and which share of the arithmetic that the machine does in a large product; on a GPU also how often a
call makes the host wait.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from benchmarks import data, detectors, evaluation, masks, operations, prediction, segmenters
from benchmarks.detectors import Call, Shape
from torch.utils.flop_counter import FlopCounterMode

DETECTORS: dict[str, Callable[..., dict[str, Call]]] = {
    "train": detectors.train,
    "infer": detectors.infer,
    "mask_train": detectors.mask_train,
    "mask_infer": detectors.mask_infer,
    "mobilenet_train": detectors.mobilenet_train,
}
SEGMENTERS = {"fcn_train": segmenters.train, "fcn_infer": segmenters.infer}
OTHERS = {
    "roi_align": operations.pooling,
    "nms": operations.nms,
    "masks": masks.encoding,
    "targets": masks.targets,
    "data": data.images,
    "annotations": data.annotation_files,
    "evaluate": evaluation.evaluate,
    "mask_evaluate": evaluation.mask_evaluation,
    "startup": operations.startup,
}
PREDICTIONS: dict[str, Callable[..., dict[str, Call]]] = {
    "predict_mobilenet_v2": partial(prediction.predict, backbone="mobilenet_v2"),
    "predict_resnet50": partial(prediction.predict, backbone="resnet50"),
}
PARTS = {**DETECTORS, **SEGMENTERS, **OTHERS, **PREDICTIONS}
IN_BOTH = (*DETECTORS, *SEGMENTERS, "roi_align")  # parts that half precision changes
PEERS = (
    "torchvision",
    "detectron2",
    "plain",
    "detectron2's way",
    "whole maps",
    "faster-coco-eval",
    "torchmetrics",
    "one by one",
    "not drawn",
    "torchvision v2",
    "albumentations + cv2",
    "pycocotools",
)


def measure(sides: dict[str, Call], repeats: int, device: str, first: int = 1) -> dict[str, dict[str, Any]]:
    """Milliseconds of each side, called in turns, the ``first`` not counted; on a GPU, how often it waits."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(first + repeats):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn >= first:
                times[name].append(1000 * (time.perf_counter() - start))
    found: dict[str, dict[str, Any]] = {
        name: {
            "ms": statistics.median(each),
            "least": min(each),
            "variation": statistics.pstdev(each) / statistics.mean(each),
        }
        for name, each in times.items()
    }
    if device == "cuda":
        for name, call in sides.items():
            found[name]["waits"] = waits(call)
    return found


def waits(call: Call) -> int:
    """Count how often the host waits for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def operations_of(call: Call) -> int:
    """Floating-point operations of the convolutions and matrix products of a call; what is compiled has none to see."""
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def peak(device: str, half: bool) -> float:
    """Floating-point operations that the machine does in a millisecond, in a large product or convolution."""
    kind: dict[str, Any] = {"device": device, "dtype": torch.bfloat16 if half else torch.float32}
    side, height, width = (8192, 192, 256) if device == "cuda" else (1024, 48, 64)
    square = torch.randn(side, side, **kind)
    maps = torch.randn(2, 256, height, width, **kind).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(256, 256, 3, 3, **kind).contiguous(memory_format=torch.channels_last)
    calls = (lambda: square @ square, lambda: torch.conv2d(maps, kernel, padding=1))
    return max(operations_of(call) / measure({"": call}, 5, device)[""]["least"] for call in calls)


def row(name: str, found: dict[str, dict[str, Any]]) -> str:
    """One line of the table: both sides and their ratio, and what else is known of ours."""
    ours = found["detseg"]
    theirs, peer = min((found[side]["ms"], side) for side in PEERS if side in found)
    text = f"{name:20}{ours['ms']:9.1f} ms{theirs:11.1f} ms{theirs / ours['ms']:8.2f}  {peer:16}"
    if "share" in ours:
        text += (
            f"{ours['images_per_second']:8.1f} images/s{ours['variation']:7.1%} variation{ours['share']:6.0%} of peak"
        )
    if "waits" in ours:
        text += f"   waits {ours['waits']} ({found[peer]['waits']})"
    return text


def run(part: str, half: bool, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The figures of each side of a part."""
    shape = Shape(arguments.batch, *arguments.size)
    settings: dict[str, Any] = {"shape": shape} if part in DETECTORS else {}
    if part in PREDICTIONS:
        settings["images"] = arguments.images
    if arguments.compile and part in DETECTORS and part.endswith("train"):
        settings["compile_loss"] = True
    sides = PARTS[part](arguments.device, half, **settings)
    # What is compiled is made in its first call, captured as a CUDA graph in its second, and replayed from the third.
    first = 3 if "compile_loss" in settings else 0 if part in PREDICTIONS else 1  # of hundreds of images each
    found = measure(sides, arguments.repeats, arguments.device, first)
    if part in PREDICTIONS:
        for name, figures in found.items():
            figures["images_per_second"] = 1000 * arguments.images / figures["ms"]
            print(f"{part} {name}: {figures['images_per_second']:.2f} images/s")
    if part in (*DETECTORS, *SEGMENTERS):
        images = 1 if part.endswith("infer") else shape.images if part in DETECTORS else segmenters.IMAGES
        most = peak(arguments.device, half)
        for name, call in sides.items():
            figures = found[name]
            figures["images_per_second"] = 1000 * images / figures["ms"]
            figures["share"] = operations_of(call) / figures["ms"] / most
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", default=[], metavar="part", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--compile", action="store_true", help="our training steps of detectors; a minute each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=500, help="image files of a prediction")
    parser.add_argument("--batch", type=int, default=2, help="images in a training step of a detector")
    parser.add_argument("--size", type=int, nargs=2, default=Shape()[1:], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"{', '.join(unknown)}: not a part; there are {', '.join(PARTS)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU here")
    return arguments


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    machine = {
        "machine": torch.cuda.get_device_name() if arguments.device == "cuda" else platform.machine(),
        "threads": arguments.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "detectron2": detectors.detectron2.there(),
        "compiled": arguments.compile,
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"{'':20}{'detseg':>12}{'best peer':>14}{'ratio':>8}")
    figures: dict[str, Any] = {}
    for part in arguments.parts or PARTS:
        for precision in arguments.precision if part in IN_BOTH else ["fp32"]:
            name = f"{part} {precision}" if part in IN_BOTH else part
            found = run(part, precision == "bf16", arguments)
            print(row(name, found), flush=True)
            best = min(found[side]["ms"] for side in PEERS if side in found)
            figures[name] = {**found, "ratio": best / found["detseg"]["ms"]}
    if arguments.json:
        arguments.json.write_text(json.dumps({**machine, "parts": figures}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
