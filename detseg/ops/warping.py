"""Regions of images as images of a fixed size (R-CNN, appendix A)."""

from __future__ import annotations

import torch
from torch import Tensor

from detseg.ops.boxes import as_float


def warp(images: Tensor, sizes: Tensor, boxes: Tensor, rows: Tensor, size: int, context: int, fill: Tensor) -> Tensor:
    """Stretch each box to a square with some of what surrounds it, whatever its aspect ratio.

    ``images`` (B, 3, H, W) uint8 of ``sizes`` (B, 2), height and width; ``boxes`` (M, 4), each of the image in its row
    of ``rows`` (M,). The box fills the middle of ``size`` x ``size`` pixels, up to ``context`` pixels from each edge;
    what lies outside the image has the colour ``fill`` (3, 1, 1). Returns (M, 3, size, size) float32 from 0 to 255,
    channels last in memory.

    Bilinear, between the two pixels nearest in each direction, also where the box is made smaller: the original
    implementation smooths nothing before. Other than there, boxes are not rounded to whole pixels.
    """
    height, width = sizes[rows].unbind(1)
    x1, y1, x2, y2 = as_float(boxes).unbind(1)
    top, bottom, below, inside_y = _axis(y1, y2, height, size, context)
    left, right, beside, inside_x = _axis(x1, x2, width, size, context)
    inside = (inside_y[:, :, None] & inside_x[:, None, :])[..., None]

    pixels = images.permute(0, 2, 3, 1).reshape(-1, 3)
    first = rows * images.shape[2]  # line of pixels of each image in all of them

    def line(y: Tensor) -> Tensor:
        start = ((first[:, None] + y) * images.shape[3])[:, :, None]
        low, high = (pixels[start + x[:, None, :]].float() for x in (left, right))
        return low.lerp_(high, beside[:, None, :, None])

    warped = line(top).lerp_(line(bottom), below[:, :, None, None])
    return torch.where(inside, warped, fill.flatten()).permute(0, 3, 1, 2)


def _axis(start: Tensor, end: Tensor, limit: Tensor, size: int, context: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where the pixels of the result lie along one side of an image with ``limit`` pixels; all (M, size).

    The pixel before and the one behind, how far it is from the first to the second, and whether they are in the image.
    """
    centres = torch.arange(size, device=start.device, dtype=start.dtype) + 0.5
    position = start[:, None] + (end - start)[:, None] * (centres - context) / (size - 2 * context)
    inside = (position >= 0) & (position <= limit[:, None])
    last = limit[:, None] - 1
    position = torch.minimum((position - 0.5).clamp(min=0), last.to(position.dtype))
    low = position.floor().to(torch.int64)
    return low, torch.minimum(low + 1, last), position - low, inside
