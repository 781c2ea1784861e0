"""Speed of the operations that detectors spend their time in, and of the start of a program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from benchmarks.detectors import Call, Shape
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, batched_nms

from detseg import kernels
from detseg.modules import RoIAlign
from detseg.structures import Instances

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

    ``plain`` does not make the host wait either: on a GPU it may be the faster one.
    """
    boxes = regions(IMAGES, 512, device)
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool, device=device)
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

    def both(pool: Callable[[], Tensor], fast: bool = True) -> Call:
        def call() -> None:
            for feature in maps:
                feature.grad = None
            with torch.autocast(device, torch.bfloat16, enabled=half), kernels.use(fast):
                pooled = pool()
            pooled.sum().backward()

        return call

    return {
        "detseg": both(lambda: RoIAlign()(maps, Instances(boxes, valid), STRIDES, 7)),
        "torchvision": both(lambda: pooler(named, list(boxes), sizes)),
        "plain": both(lambda: RoIAlign()(maps, Instances(boxes, valid), STRIDES, 7), fast=False),
    }


def nms(device: str, half: bool) -> dict[str, Call]:
    """Suppression of 2000 boxes on each of four levels, of two images."""
    boxes = regions(2, 8000, device)
    scores = torch.rand(boxes.shape[:2], device=device)
    levels = torch.arange(4, device=device).repeat_interleave(2000).expand(2, -1)
    valid = torch.ones_like(levels, dtype=torch.bool)
    return {
        "detseg": lambda: kernels.nms(boxes, scores, levels, valid, 0.7, 2000),
        "torchvision": lambda: [batched_nms(*image, 0.7)[:2000] for image in zip(boxes, scores, levels, strict=True)],
    }


def startup(device: str, half: bool) -> dict[str, Call]:
    """A new process until the package is imported."""
    return {
        package: partial(subprocess.run, [sys.executable, "-c", f"import {package}"], check=True)
        for package in ("detseg", "torchvision", "torch")
    }
