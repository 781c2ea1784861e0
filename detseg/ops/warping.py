"""Regions of images as images of a fixed size (R-CNN, appendix A)."""

from __future__ import annotations

import torch
from torch import Tensor

from detseg.ops.boxes import as_float


def warp(
    images: Tensor, image_sizes: Tensor, boxes: Tensor, image_index: Tensor, size: int, context: int, fill: Tensor
) -> Tensor:
    """Stretch each box, with some context around it, to a square of ``size`` x ``size`` pixels.

    ``images`` (B, 3, H, W) uint8 of ``image_sizes`` (B, 2), height and width; ``boxes`` (M, 4), box i lying in image
    ``image_index[i]``. The box fills the crop up to ``context`` pixels from each edge; pixels outside the image have
    the colour ``fill`` (3, 1, 1). Returns (M, 3, size, size) float32 from 0 to 255, channels last in memory.

    Interpolates bilinearly without smoothing, even where the box shrinks, as the original implementation does. Unlike
    there, boxes are not rounded to whole pixels.
    """
    height, width = image_sizes[image_index].unbind(1)
    x1, y1, x2, y2 = as_float(boxes).unbind(1)
    top, bottom, below, inside_y = _axis(y1, y2, height, size, context)
    left, right, beside, inside_x = _axis(x1, x2, width, size, context)
    inside = (inside_y[:, :, None] & inside_x[:, None, :])[..., None]

    pixels = images.permute(0, 2, 3, 1).reshape(-1, 3)
    first = image_index * images.shape[2]  # row of pixels, counted over all images

    def line(y: Tensor) -> Tensor:
        start = ((first[:, None] + y) * images.shape[3])[:, :, None]
        low, high = (pixels[start + x[:, None, :]].float() for x in (left, right))
        return low.lerp_(high, beside[:, None, :, None])

    warped = line(top).lerp_(line(bottom), below[:, :, None, None])
    return torch.where(inside, warped, fill.flatten()).permute(0, 3, 1, 2)


def _axis(start: Tensor, end: Tensor, limit: Tensor, size: int, context: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Locate the pixels of the crop along one side of an image with ``limit`` pixels; all (M, size).

    Returns the pixel before and the one after, the fraction of the way between them, and a mask of the positions
    inside the image.
    """
    centres = torch.arange(size, device=start.device, dtype=start.dtype) + 0.5
    position = start[:, None] + (end - start)[:, None] * (centres - context) / (size - 2 * context)
    inside = (position >= 0) & (position <= limit[:, None])
    last = limit[:, None] - 1
    position = torch.minimum((position - 0.5).clamp(min=0), last.to(position.dtype))
    low = position.floor().to(torch.int64)
    return low, torch.minimum(low + 1, last), position - low, inside
