"""Masks of objects as the mask head learns them: small grids over a box (Mask R-CNN, section 3).

A grid (S, S) uint8 over the box of an object says how much of each of its cells the object covers, 255 being all. It
is how the truth reaches the loss: whole maps of a batch would take many times the memory, and polygons drawn
for each region, as in detectron2, would make the device wait for the host in every step. What a grid loses is measured
in docs/benchmarks.md.

Coordinates are continuous, as everywhere: the middle of the first pixel is (0.5, 0.5). torchvision's targets count it
as (0, 0), so they are those of regions that lie half a pixel further right and down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detseg.ops.boxes import TINY, as_float

GRID = 224  # cells on each side, eight for each pixel that the mask head says


def bin_coverage(start: Tensor, stop: Tensor, cells: int, pixels: int) -> Tensor:
    """The share of each of ``cells`` equal parts of [start, stop] that each of the unit pixels from 0 on covers.

    ``start`` and ``stop`` (...) to (..., cells, pixels). Rows add up to 1, to less where a part reaches beyond the
    pixels. A map times these, from both sides, is its exact average over the cells of a grid.
    """
    start, length = as_float(start)[..., None], (as_float(stop) - as_float(start))[..., None].clamp(min=TINY)
    edges = start + length * torch.arange(cells + 1, device=start.device, dtype=start.dtype) / cells
    pixel = torch.arange(pixels, device=start.device, dtype=start.dtype)
    high = torch.minimum(edges[..., 1:, None], pixel + 1)
    low = torch.maximum(edges[..., :-1, None], pixel)
    return (high - low).clamp(min=0) * (cells / length[..., None])


def crop_and_resize_mean(maps: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Averages of ``maps`` (..., h, w) over ``size`` x ``size`` cells of ``boxes`` (..., 4), in pixels of the maps.

    Returns (..., size, size) float; outside of the maps everything is zero.
    """
    x1, y1, x2, y2 = as_float(boxes).unbind(-1)
    rows, columns = bin_coverage(y1, y2, size, maps.shape[-2]), bin_coverage(x1, x2, size, maps.shape[-1])
    with torch.autocast(maps.device.type, enabled=False):  # half precision would blur edges
        return rows @ maps.to(rows.dtype) @ columns.transpose(-1, -2)


def box_masks(masks: Iterable[NDArray[np.bool_]], boxes: Tensor, size: int = GRID) -> Tensor:
    """The grids (n, size, size) uint8 of n masks (h, w), taken one at a time, over ``boxes`` (n, 4)."""
    found = torch.zeros(len(boxes), size, size, dtype=torch.uint8)
    for grid, mask, box in zip(found, masks, boxes, strict=True):
        # The pixels that the box touches are enough.
        x1, y1, x2, y2 = box.tolist()
        left, top, right, bottom = max(int(x1), 0), max(int(y1), 0), math.ceil(x2), math.ceil(y2)
        window = torch.from_numpy(np.ascontiguousarray(mask[top:bottom, left:right]))
        grid.copy_((255 * crop_and_resize_mean(window, box - torch.tensor([left, top, left, top]), size)).round())
    return found


def mask_targets(masks: Tensor, boxes: Tensor, regions: Tensor, size: int) -> Tensor:
    """What the mask head should say of each region: how much of each of its cells the object covers (section 3.1).

    ``masks`` (..., S, S) uint8 are grids over the objects' ``boxes`` (..., 4), 255 where all of a cell is covered;
    ``regions`` (..., 4) lie anywhere near them. Returns (..., size, size) between 0 and 1.
    """
    boxes, regions = as_float(boxes), as_float(regions)
    corner = boxes[..., :2]
    cell = (boxes[..., 2:] - corner).clamp(min=TINY) / masks.shape[-1]
    in_cells = (regions - torch.cat([corner, corner], dim=-1)) / torch.cat([cell, cell], dim=-1)
    return crop_and_resize_mean(masks, in_cells, size) / 255
