"""Speed of the operations that detectors spend their time in, and of the start of a program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from benchmarks.detectors import Call, Shape
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, batched_nms
from torchvision.ops import roi_align as torchvision_roi_align

from detseg.ops.nms import suppress
from detseg.ops.roi_pooling import assign_levels, roi_align

STRIDES = (4, 8, 16, 32)
IMAGES, HEIGHT, WIDTH = Shape()


def regions(images: int, count: int, device: str) -> Tensor:
    """Boxes (B, count, 4) of 16 to 400 pixels a side, small ones more often."""
    torch.manual_seed(2)
    sides = 16 * 25 ** torch.rand(images, count, 2)
    corner = torch.rand(images, count, 2) * (torch.tensor([WIDTH, HEIGHT]) - sides).clamp(min=0)
    return torch.cat([corner, corner + sides], dim=-1).to(device)


def pooling(device: str, half: bool) -> dict[str, Call]:
    """RoIAlign of 512 regions in each of two images over four levels of 256 channels, forward and backward.

    ``by level`` is the other way that leaves the host alone: on a GPU it may be the quicker one.
    """
    boxes = regions(IMAGES, 512, device)
    precision = torch.bfloat16 if half else torch.float32
    maps = [
        torch.randn(2, 256, HEIGHT // stride, WIDTH // stride, device=device, dtype=precision)
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
        for stride in STRIDES
    ]
    pooler = MultiScaleRoIAlign([str(stride) for stride in STRIDES], 7, sampling_ratio=2)
    named = {str(stride): feature for stride, feature in zip(STRIDES, maps, strict=True)}
    sizes = [(HEIGHT, WIDTH)] * 2

    def both(pool: Callable[[], Tensor]) -> Call:
        def call() -> None:
            for feature in maps:
                feature.grad = None
            with torch.autocast(device, torch.bfloat16, enabled=half):
                pooled = pool()
            pooled.sum().backward()

        return call

    return {
        "detseg": both(lambda: roi_align(maps, boxes, STRIDES, 7)),
        "torchvision": both(lambda: pooler(named, list(boxes), sizes)),
        "by level": both(lambda: by_level(maps, boxes, STRIDES, 7)),
    }


def by_level(features: Sequence[Tensor], boxes: Tensor, strides: Sequence[int], size: int) -> Tensor:
    """``roi_align`` by torchvision's kernel, of all boxes on every level, which does not make the host wait either.

    Boxes of other levels shrink to a point there, and their own level's result is taken.
    """
    level = assign_levels(boxes, strides).reshape(-1, 1)
    image = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype).repeat_interleave(boxes.shape[1])[:, None]
    pooled = []
    for index, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        rois = torch.cat([image, torch.where(level == index, boxes.flatten(0, 1), 0)], dim=1).to(feature.dtype)
        pooled.append(torchvision_roi_align(feature, rois, size, 1 / stride, sampling_ratio=2))
    kept = level[:, :, None, None, None] == torch.arange(len(strides), device=boxes.device)
    return torch.where(kept, torch.stack(pooled, dim=-1), 0).sum(dim=-1)


def nms(device: str, half: bool) -> dict[str, Call]:
    """Suppression of 2000 boxes on each of four levels, of two images."""
    boxes = regions(2, 8000, device)
    scores = torch.rand(boxes.shape[:2], device=device)
    levels = torch.arange(4, device=device).repeat_interleave(2000).expand(2, -1)
    valid = torch.ones_like(levels, dtype=torch.bool)
    return {
        "detseg": lambda: suppress(boxes, scores, levels, valid, 0.7, 2000),
        "torchvision": lambda: [batched_nms(*image, 0.7)[:2000] for image in zip(boxes, scores, levels, strict=True)],
    }


def startup(device: str, half: bool) -> dict[str, Call]:
    """A new process until the package is imported."""
    return {
        package: partial(subprocess.run, [sys.executable, "-c", f"import {package}"], check=True)
        for package in ("detseg", "torchvision", "torch")
    }
