"""Boxes and feature maps to try operations on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor


def random_boxes(*shape: int, side: float = 100, degenerate: float = 0.0) -> Tensor:
    """Boxes of ``shape`` inside ``side`` pixels; of ``degenerate`` of them, one side has no length."""
    corners = torch.rand(*shape, 2, 2) * side
    boxes = torch.cat([corners.amin(dim=-2), corners.amax(dim=-2)], dim=-1)
    flat = torch.rand(*shape) < degenerate
    boxes[..., 2] = torch.where(flat, boxes[..., 0], boxes[..., 2])
    return boxes


@st.composite
def lattice_boxes(draw: st.DrawFn, most: int = 5, side: int = 6) -> Tensor:
    """Up to ``most`` boxes with whole corners on a small lattice: often equal, nested, touching or without area."""
    coordinate = st.integers(0, side)
    points = draw(st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), max_size=most))
    boxes = torch.tensor(points, dtype=torch.float32).reshape(-1, 2, 2)
    return torch.cat([boxes.amin(dim=1), boxes.amax(dim=1)], dim=1) if len(boxes) else boxes.reshape(0, 4)


def random_maps(strides: Sequence[int], channels: int = 3, images: int = 2, side: int = 256) -> list[Tensor]:
    """Feature maps of an image that is half as wide as high."""
    return [torch.randn(images, channels, side // stride, side // stride // 2) for stride in strides]
