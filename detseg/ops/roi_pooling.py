"""Features of boxes: RoIPool (Fast R-CNN, section 2.1) and RoIAlign (Mask R-CNN, section 3), over a feature pyramid.

And of single cells with their neighbours, as a convolution sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_pool as torchvision_roi_pool

from detseg.ops.boxes import area, as_float, constant

SAMPLES = 2  # RoIAlign's sampling points along each side of a bin: four a bin (Mask R-CNN, section 3)


class Pixels(NamedTuple):
    """All pixels of all maps (B, C, h, w) as one table, so that one lookup serves every level.

    Pixel (y, x) of an image's map is row ``start + (image * height + y) * width + x`` of those of its level.
    """

    rows: Tensor  # (sum of B * h * w, C)
    starts: Tensor  # (L,) int64, the first row of each level
    heights: Tensor  # (L,) int64
    widths: Tensor  # (L,) int64


def table(features: Sequence[Tensor]) -> Pixels:
    """The pixels of maps (B, C, h, w), fine to coarse; a copy, from which the gradient goes back to them."""
    channels = features[0].shape[1]
    rows = torch.cat([feature.permute(0, 2, 3, 1).reshape(-1, channels) for feature in features])
    whole = torch.empty(0, dtype=torch.int64, device=rows.device)
    heights, widths = (constant([feature.shape[side] for feature in features], whole) for side in (2, 3))
    counts = len(features[0]) * heights * widths
    return Pixels(rows, counts.cumsum(0) - counts, heights, widths)


def patches(features: Sequence[Tensor], cells: Tensor, reach: int = 1) -> Tensor:
    """The pixels around each of ``cells``, zero beyond the edge of its map: (B * S, C, 2 * reach + 1, 2 * reach + 1).

    ``features`` are maps (B, C, h, w), fine to coarse; ``cells`` (B, S) count those of an image's maps, row by row.
    """
    rows, starts, heights, widths = table(features)
    images = len(features[0])
    first = starts // max(images, 1)  # the first cell of each level
    level = (cells[..., None] >= first[1:]).sum(dim=-1)
    height, width = heights[level], widths[level]
    cell = cells - first[level]
    steps = torch.arange(-reach, reach + 1, device=cells.device)
    y, x = (cell // width)[..., None] + steps, (cell % width)[..., None] + steps
    inside = ((y >= 0) & (y < height[..., None]))[..., :, None] & ((x >= 0) & (x < width[..., None]))[..., None, :]
    image = torch.arange(images, device=cells.device)[:, None]
    row = (starts[level] + image * height * width)[..., None, None] + y[..., :, None] * width[..., None, None]
    values = F.embedding(torch.where(inside, row + x[..., None, :], 0), rows)
    return torch.where(inside[..., None], values, 0).flatten(0, 1).permute(0, 3, 1, 2)


def assign_levels(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """The pyramid map to take each box's features from (FPN, equation 1): (B, R, 4) to (B, R) int64 indices.

    A box of 224 pixels (ImageNet's side) belongs to the map of stride 16, half of it to that of stride 8, and so on.
    """
    first, last = (stride.bit_length() - 1 for stride in (strides[0], strides[-1]))
    # 1e-6: a box of exactly 224 pixels must not fall a level by rounding.
    level = torch.floor(4 + torch.log2(area(boxes).sqrt().clamp(min=1e-6) / 224) + 1e-6)
    return level.clamp(first, last).to(torch.int64) - first


def _axis(start: Tensor, length: Tensor, limit: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Pixels and weights of bilinear interpolation along one side: two (M, size, 2 * SAMPLES).

    ``start`` and ``length`` of the box and ``limit``, the number of pixels, are (M,), in pixels of the feature map.
    A point up to one pixel outside the map takes the value of the edge, one further out is zero.
    """
    points = (torch.arange(size * SAMPLES, device=start.device, dtype=start.dtype) + 0.5) / (size * SAMPLES)
    position = start[:, None] + length[:, None] * points
    last = limit[:, None] - 1
    inside = (position >= -1) & (position <= limit[:, None])
    position = torch.minimum(position.clamp(min=0), last.to(position.dtype))
    low = position.floor().to(torch.int64)
    fraction = position - low
    pixels = torch.stack([low, torch.minimum(low + 1, last)], dim=-1)
    weights = torch.stack([1 - fraction, fraction], dim=-1) * inside[..., None] / SAMPLES
    return pixels.reshape(-1, size, 2 * SAMPLES), weights.reshape(-1, size, 2 * SAMPLES)


def roi_align(features: Sequence[Tensor], boxes: Tensor, strides: Sequence[int], size: int) -> Tensor:
    """Average of four bilinear samples in each of ``size`` x ``size`` bins of each box.

    ``features`` are maps (B, C, h, w), fine to coarse, of ``strides``; ``boxes`` (B, R, 4) in pixels of the input.
    Returns (B * R, C, size, size), channels last in memory.

    All levels at once: a bin is a weighted sum of sixteen pixels, so with the pixels of all maps as rows of one table
    the whole operation is one ``embedding_bag``, several times faster on a CPU than a kernel for each level. Its
    gradient is summed in an order that is always the same, on a GPU too.
    """
    device, images, channels = boxes.device, boxes.shape[0], features[0].shape[1]
    rows, starts, heights, widths = table(features)
    rows = as_float(rows)

    level = assign_levels(boxes, strides).flatten()
    height, width = heights[level], widths[level]
    stride = constant(strides, starts)[level]
    x1, y1, x2, y2 = (as_float(boxes).reshape(-1, 4) / stride[:, None]).unbind(1)
    # Boxes are at least one pixel of the map wide, as in the original implementation.
    y, y_weight = _axis(y1, (y2 - y1).clamp(min=1), height, size)
    x, x_weight = _axis(x1, (x2 - x1).clamp(min=1), width, size)

    image = torch.arange(images, device=device).repeat_interleave(boxes.shape[1])
    first = starts[level] + image * height * width
    row = (first[:, None, None] + y * width[:, None, None])[:, :, None, :, None] + x[:, None, :, None, :]
    weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    taps = (2 * SAMPLES) ** 2
    pooled = F.embedding_bag(
        row.reshape(-1, taps).to(torch.int32),  # sorted for the gradient, for which these take less time
        rows,
        per_sample_weights=weight.reshape(-1, taps).to(rows.dtype),
        mode="sum",
    )
    return pooled.view(-1, size, size, channels).permute(0, 3, 1, 2)


def roi_pool(features: Sequence[Tensor], boxes: Tensor, strides: Sequence[int], size: int) -> Tensor:
    """Maximum of the pixels in each of ``size`` x ``size`` bins of each box, rounded to whole pixels.

    Arguments and result as for ``roi_align``.
    """
    boxes = as_float(boxes)
    level = assign_levels(boxes, strides)[..., None]
    image = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)[:, None, None].expand(*boxes.shape[:2], 1)
    pooled: Tensor | None = None
    for index, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        # Boxes of other levels shrink to a point: cheap to pool, and replaced by their own level's result.
        rois = torch.cat([image, torch.where(level == index, boxes, 0)], dim=-1).reshape(-1, 5)
        feature = as_float(feature)
        values = torchvision_roi_pool(feature, rois.to(feature.dtype), size, 1 / stride)  # which asks for equal types
        pooled = values if pooled is None else torch.where((level == index).reshape(-1, 1, 1, 1), values, pooled)
    assert pooled is not None
    return pooled
