"""RoIAlign and 3 x 3 patches as lookups in one table of the pixels of all pyramid levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.ops.boxes import as_float, constant


class PixelTable(NamedTuple):
    """All pixels of all maps (B, C, h, w) as one table, so that one lookup serves every level.

    Pixel (y, x) of an image's map is row ``start + (image * height + y) * width + x``, ``start`` being its level's.
    """

    rows: Tensor  # (sum of B * h * w, C)
    level_starts: Tensor  # (L,) int64, the first row of each level
    heights: Tensor  # (L,) int64
    widths: Tensor  # (L,) int64


def pixel_table(features: Sequence[Tensor]) -> PixelTable:
    """Copy the pixels of maps (B, C, h, w), fine to coarse, into one table; gradients flow back to the maps."""
    channels = features[0].shape[1]
    rows = torch.cat([feature.permute(0, 2, 3, 1).reshape(-1, channels) for feature in features])
    integers = torch.empty(0, dtype=torch.int64, device=rows.device)
    heights, widths = (constant([feature.shape[side] for feature in features], integers) for side in (2, 3))
    counts = len(features[0]) * heights * widths
    return PixelTable(rows, counts.cumsum(0) - counts, heights, widths)


def gather_patches(features: Sequence[Tensor], cells: Tensor, reach: int = 1) -> Tensor:
    """Gather the pixels around ``cells``, zero outside their map: (B * S, C, 2 * reach + 1, 2 * reach + 1).

    ``features`` are maps (B, C, h, w), fine to coarse; ``cells`` (B, S) count the cells of an image's maps, row by row.
    """
    rows, level_starts, heights, widths = pixel_table(features)
    images = len(features[0])
    first = level_starts // max(images, 1)  # the first cell of each level
    level = (cells[..., None] >= first[1:]).sum(dim=-1)
    height, width = heights[level], widths[level]
    cell = cells - first[level]
    steps = torch.arange(-reach, reach + 1, device=cells.device)
    y, x = (cell // width)[..., None] + steps, (cell % width)[..., None] + steps
    inside = ((y >= 0) & (y < height[..., None]))[..., :, None] & ((x >= 0) & (x < width[..., None]))[..., None, :]
    image = torch.arange(images, device=cells.device)[:, None]
    row = (level_starts[level] + image * height * width)[..., None, None] + y[..., :, None] * width[..., None, None]
    values = F.embedding(torch.where(inside, row + x[..., None, :], 0), rows)
    return torch.where(inside[..., None], values, 0).flatten(0, 1).permute(0, 3, 1, 2)


def roi_align(
    features: Sequence[Tensor], boxes: Tensor, levels: Tensor, strides: Sequence[int], size: int, sampling_ratio: int
) -> Tensor:
    """Pool boxes (B, R, 4) from the maps ``levels`` (B, R) to (B * R, C, size, size), channels last in memory.

    ``features`` are maps (B, C, h, w), fine to coarse, of ``strides``. A bin has ``sampling_ratio``^2 samples.

    A bin is a weighted sum of the four pixels around each of its samples, so with the pixels of all maps as rows of one
    table the whole operation is one ``embedding_bag``, several times faster on a CPU than a kernel for each level. Its
    gradient is always summed in the same order, on a GPU too.
    """
    device, images, channels = boxes.device, boxes.shape[0], features[0].shape[1]
    rows, level_starts, heights, widths = pixel_table(features)
    rows = as_float(rows)

    level = levels.flatten()
    height, width = heights[level], widths[level]
    stride = constant(strides, level_starts)[level]
    x1, y1, x2, y2 = (as_float(boxes).reshape(-1, 4) / stride[:, None]).unbind(1)
    # Boxes are at least one pixel of the map wide, as in the original implementation.
    y, y_weight = _interpolate(y1, (y2 - y1).clamp(min=1), height, size, sampling_ratio)
    x, x_weight = _interpolate(x1, (x2 - x1).clamp(min=1), width, size, sampling_ratio)

    image = torch.arange(images, device=device).repeat_interleave(boxes.shape[1])
    first = level_starts[level] + image * height * width
    row = (first[:, None, None] + y * width[:, None, None])[:, :, None, :, None] + x[:, None, :, None, :]
    weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    pixels_per_bin = (2 * sampling_ratio) ** 2
    pooled = F.embedding_bag(
        row.reshape(-1, pixels_per_bin).to(torch.int32),  # sorted for the gradient, which is faster for int32
        rows,
        per_sample_weights=weight.reshape(-1, pixels_per_bin).to(rows.dtype),
        mode="sum",
    )
    return pooled.view(-1, size, size, channels).permute(0, 3, 1, 2)


def _interpolate(start: Tensor, length: Tensor, limit: Tensor, size: int, ratio: int) -> tuple[Tensor, Tensor]:
    """Compute pixels and weights of bilinear interpolation along one side: two (M, size, 2 * ratio).

    ``start`` and ``length`` of the box and ``limit``, the number of pixels, are (M,), in pixels of the feature map.
    A point up to one pixel outside the map takes the value of the edge, one further out is zero.
    """
    steps = torch.arange(size * ratio, device=start.device, dtype=start.dtype)
    position = start[:, None] + length[:, None] * ((steps + 0.5) / (size * ratio))
    last = limit[:, None] - 1
    inside = (position >= -1) & (position <= limit[:, None])
    position = torch.minimum(position.clamp(min=0), last.to(position.dtype))
    low = position.floor().to(torch.int64)
    fraction = position - low
    pixels = torch.stack([low, torch.minimum(low + 1, last)], dim=-1)
    weights = torch.stack([1 - fraction, fraction], dim=-1) * inside[..., None] / ratio
    return pixels.reshape(-1, size, 2 * ratio), weights.reshape(-1, size, 2 * ratio)
