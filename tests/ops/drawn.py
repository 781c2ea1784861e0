"""Boxes and feature maps to try operations on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
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


def blobs(count: int, height: int, width: int, smallest: int = 8, seed: int = 0) -> tuple[NDArray[np.bool_], Tensor]:
    """Ellipses with a bite taken out, (n, h, w), and the boxes around them (n, 4)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] + 0.5
    masks = np.zeros((count, height, width), dtype=bool)
    for mask in masks:
        radius = random.uniform(smallest / 2, min(height, width) / 3, 2)
        middle = random.uniform(radius, np.array([width, height]) - radius)
        inside = ((x - middle[0]) / radius[0]) ** 2 + ((y - middle[1]) / radius[1]) ** 2 <= 1
        bite = (x - middle[0] - radius[0] / 2) ** 2 + (y - middle[1]) ** 2 <= (radius.min() / 2) ** 2
        mask[:] = inside & ~bite
    boxes = [[x.min(), y.min(), x.max() + 1, y.max() + 1] for y, x in (mask.nonzero() for mask in masks)]
    return masks, torch.tensor(np.array(boxes), dtype=torch.float32)


def regions_of(boxes: Tensor, random: torch.Generator) -> Tensor:
    """Boxes off by up to a fifth of their sides."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + sides * (0.4 * torch.rand(boxes.shape, generator=random) - 0.2)
