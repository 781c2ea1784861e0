"""Export the models of the papers, prove the files, and measure their speed beside PyTorch's.

    python tools/export_check.py [NAME ...] [--images 200] [--out FOLDER] [--speed]

The models have random weights, but batch norm the statistics of the proof's images, and heads that tell regions apart.
Each goes through ONNX Runtime and OpenVINO. ``--speed`` measures ONNX Runtime, in 8 bits too, beside PyTorch with the
fast kernels instead, in turns, on two threads, and the share of RoIAlign.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from detseg import kernels
from detseg.errors import ExportError
from detseg.export import onnx, openvino
from detseg.export.delivery import certify, describe
from detseg.export.graph import Frame
from detseg.export.int8 import quantize_file
from detseg.export.proof import Reference
from detseg.export.proof_images import drawn_images, special_images
from detseg.models import FCN, Classifier, Detector, DilatedFCN, FasterRCNN, MaskRCNN, RetinaNet, Segmenter
from detseg.models.model import Model
from detseg.models.retinanet import RetinaFPN
from detseg.modules import FPN, Res5Head, RoIHeads
from detseg.modules.backbones import MobileNetV2, ResNet
from detseg.runtime import open_engine

CLASSES = 20
Frames = dict[str, tuple[Callable[[], Any], Frame]]
CHECKED: Frames = {  # models by name, and the frame of the proof
    "faster_rcnn_mobilenet_v2": (lambda: FasterRCNN(FPN(MobileNetV2()), CLASSES), (224, 288)),
    "faster_rcnn_r50_fpn": (lambda: FasterRCNN(FPN(ResNet("resnet50")), CLASSES), (128, 192)),
    "faster_rcnn_r50_c4": (
        lambda: FasterRCNN(ResNet("resnet50", stages=[4]), CLASSES, roi_heads=RoIHeads(box_head=Res5Head("resnet50"))),
        (128, 160),
    ),
    "mask_rcnn_r50_fpn": (lambda: MaskRCNN(FPN(ResNet("resnet50")), CLASSES), (128, 192)),
    "mask_rcnn_mobilenet_v2": (lambda: MaskRCNN(FPN(MobileNetV2()), CLASSES), (128, 192)),
    "retinanet_r50_fpn": (lambda: RetinaNet(RetinaFPN(ResNet("resnet50", stages=[3, 4, 5])), CLASSES), (128, 192)),
    "fcn8s_r50": (lambda: FCN(ResNet("resnet50", stages=[3, 4, 5]), CLASSES), (128, 192)),
    "dilated_fcn_r50": (
        lambda: DilatedFCN(ResNet("resnet50", stages=[4, 5], output_stride=8, norm="batch"), CLASSES),
        (128, 192),
    ),
    "mobilenet_v2": (lambda: Classifier(MobileNetV2(stages=[5]), CLASSES), (224, 224)),
}
SPEED_FRAME = (480, 640)
SPREAD = {
    "cls_score": 0.15,
    "scores": 0.1,
    "head.4": 0.1,
    "cls_logits": 0.05,
    "bbox_pred": 0.01,
    "classification_head.conv": 0.03,  # of RetinaNet, whose towers else let nothing pass
    "classification_head.cls_logits": 0.006,
    "regression_head.conv": 0.03,
    "bbox_reg": 0.001,
    "mask_fcn_logits": 0.5,
}
PROPOSALS = 100  # of each image in a proof: with random weights, more of them are only slower
SHOWN = (
    *("images", "detections", "max_box_difference", "max_score_difference"),
    *("mask_cells", "mask_cells_differing", "pixels_differing", "ties"),
)
Call = Callable[[], Any]


def build(name: str, frame: Frame) -> Model:
    """Build a model with random weights."""
    torch.manual_seed(0)
    model = CHECKED[name][0]()
    images = [image.pixels for image in islice(chain(special_images(frame), drawn_images(frame)), 8)]
    batch = torch.zeros(len(images), 3, *frame, dtype=torch.uint8)
    for row, image in enumerate(images):
        batch[row, :, : image.shape[0], : image.shape[1]] = torch.from_numpy(image).permute(2, 0, 1)
    for path, parameter in model.named_parameters():
        for layer, spread in SPREAD.items():
            if f"{layer}." in path and path.endswith("weight"):
                nn.init.normal_(parameter, std=spread)
    calibrate(model.eval(), batch)
    return model  # type: ignore[no-any-return]


def calibrate(model: nn.Module, batch: Tensor) -> None:
    """Give each batch norm the statistics of its input, as training would have."""

    def observe(norm: Any, inputs: tuple[Tensor]) -> None:
        norm.running_mean.copy_(inputs[0].mean(dim=(0, 2, 3)))
        norm.running_var.copy_(inputs[0].var(dim=(0, 2, 3)).clamp(min=1e-3))

    norms = [module for module in model.modules() if hasattr(module, "running_mean")]
    hooks = [norm.register_forward_pre_hook(observe) for norm in norms]
    with torch.no_grad(), kernels.use(fast=False):
        sized = isinstance(model, (Detector, Segmenter))
        model(batch, *([torch.tensor([batch.shape[2:]] * len(batch))] if sized else []))
    for hook in hooks:
        hook.remove()


def check(name: str, folder: Path, count: int) -> None:
    """Write both files of a model, prove them, and print what the proofs found."""
    frame = CHECKED[name][1]
    model = build(name, frame)
    if isinstance(model, FasterRCNN):
        model.rpn.pre_nms_top_n, model.rpn.post_nms_top_n = (200, 200), (PROPOSALS, PROPOSALS)
    metadata = {**describe(model, frame), "half": False}
    start = time.perf_counter()
    onnx.write(model, frame, folder / f"{name}.onnx", metadata)
    openvino.convert(folder / f"{name}.onnx", folder / f"{name}.xml", metadata)
    print(f"{name}: written in {time.perf_counter() - start:.0f} s", flush=True)
    for suffix in (".onnx", ".xml"):
        try:
            report = certify(model, folder / f"{name}{suffix}", frame, (), count)
        except ExportError as error:
            print(f"{name}{suffix}: FAILED: {error}", flush=True)
            continue
        print(f"{name}{suffix}: passed", {key: report[key] for key in SHOWN if report[key]}, flush=True)


def speed(name: str, folder: Path, repeats: int = 7) -> None:
    """Measure a batch of one image in turns, and the share of RoIAlign in ONNX Runtime's time."""
    model, frame = build(name, SPEED_FRAME), SPEED_FRAME
    file, small = folder / f"{name}_speed.onnx", folder / f"{name}_int8.onnx"
    if not file.exists():
        onnx.write(model, frame, file, {**describe(model, frame), "half": False})
    small.write_bytes(file.read_bytes())
    reference = Reference(model)
    quantize_file(reference, small, frame, list(islice(drawn_images(frame), 4)))
    inputs = reference.inputs(list(islice(drawn_images(frame), 1)), frame)
    tensors = [torch.from_numpy(value) for value in inputs.values()]
    tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    eager: Any = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sessions = [open_engine(each, torch.get_num_threads()) for each in (file, small)]
    calls: dict[str, Call] = {"eager": lambda: eager(*tensors)}
    calls |= {side: partial(engine, inputs) for side, engine in zip(("onnxruntime", "int8"), sessions, strict=True)}
    times: dict[str, list[float]] = {side: [] for side in calls}
    with torch.inference_mode():
        count, actual = int(eager(*tensors).valid.sum()), int(sessions[0](inputs)["num_detections"].sum())
        for _ in range(repeats):
            for side, call in calls.items():
                start = time.perf_counter()
                call()
                times[side].append(1000 * (time.perf_counter() - start))
    print(f"{name}: {count} detections, {actual} with ONNX Runtime", flush=True)
    for side, each in times.items():
        ratios = [statistics.median(times["eager"]) / statistics.median(each), min(times["eager"]) / min(each)]
        print(
            f"  {side}: {statistics.median(each):.0f} ms, least {min(each):.0f} ms, eager / this {ratios}", flush=True
        )
    print("  shares of ONNX Runtime:", profile(file, inputs, folder), flush=True)


def profile(file: Path, inputs: Any, folder: Path) -> dict[str, str]:
    """Measure the share of each operator in the time of ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_profiling, options.profile_file_prefix = True, str(folder / file.stem)
    session = onnxruntime.InferenceSession(file, options)
    for _ in range(3):
        session.run(None, inputs)
    shares: Counter[str] = Counter()
    for event in json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")):
        if event.get("cat") == "Node":
            shares[event["args"]["op_name"]] += event["dur"]
    total = sum(shares.values())
    return {operator: f"{took / total:.1%}" for operator, took in shares.most_common(8)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*CHECKED, []], metavar="NAME")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("exported"))
    parser.add_argument("--speed", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2 if arguments.speed else 1)
    for name in arguments.names or CHECKED:
        if arguments.speed:
            speed(name, arguments.out)
        else:
            check(name, arguments.out, arguments.images)


if __name__ == "__main__":
    main()
