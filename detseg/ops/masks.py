"""Box masks: object masks as small grids over the object's box, and the targets of the mask head made from them.

A box mask (S, S) uint8 contains the covered fraction of each cell of the object's box, 255 for a fully covered cell.
The ground truth reaches the loss in this form: full-size masks of a batch would take many times the memory, and
rasterising polygons for each region, as detectron2 does, would make the device wait for the host in every step.
docs/benchmarks.md measures the loss of precision.

Coordinates are continuous, as everywhere: the centre of the first pixel is (0.5, 0.5). torchvision's targets place it
at (0, 0), which corresponds to regions shifted by half a pixel to the right and down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detseg.ops.boxes import TINY, as_float

BOX_MASK_SIZE = 224  # cells on each side, eight for each pixel that the mask head predicts


def bin_coverage(start: Tensor, stop: Tensor, bins: int, pixels: int) -> Tensor:
    """Compute the fraction of each of ``bins`` equal parts of [start, stop] that each unit pixel from 0 on covers.

    ``start`` and ``stop`` (...) to (..., bins, pixels). Rows add up to 1, to less where a bin reaches beyond the
    pixels. Multiplying a map by these from both sides gives its exact average over the bins.
    """
    start, length = as_float(start)[..., None], (as_float(stop) - as_float(start))[..., None].clamp(min=TINY)
    edges = start + length * torch.arange(bins + 1, device=start.device, dtype=start.dtype) / bins
    pixel = torch.arange(pixels, device=start.device, dtype=start.dtype)
    high = torch.minimum(edges[..., 1:, None], pixel + 1)
    low = torch.maximum(edges[..., :-1, None], pixel)
    return (high - low).clamp(min=0) * (bins / length[..., None])


def crop_and_resize_mean(maps: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop ``boxes`` (..., 4), in pixels of ``maps`` (..., h, w), and resize them by their mean over size x size bins.

    Returns (..., size, size) float; pixels outside the maps count as zero.
    """
    x1, y1, x2, y2 = as_float(boxes).unbind(-1)
    rows, columns = bin_coverage(y1, y2, size, maps.shape[-2]), bin_coverage(x1, x2, size, maps.shape[-1])
    with torch.autocast(maps.device.type, enabled=False):  # half precision would blur edges
        return rows @ maps.to(rows.dtype) @ columns.transpose(-1, -2)


def box_masks(masks: Iterable[NDArray[np.bool_]], boxes: Tensor, size: int = BOX_MASK_SIZE) -> Tensor:
    """Make the box masks (n, size, size) uint8 of n masks (h, w), read one at a time, over ``boxes`` (n, 4)."""
    resized = torch.zeros(len(boxes), size, size, dtype=torch.uint8)
    for target, mask, box in zip(resized, masks, boxes, strict=True):
        # The pixels that the box touches are sufficient.
        x1, y1, x2, y2 = box.tolist()
        left, top, right, bottom = max(int(x1), 0), max(int(y1), 0), math.ceil(x2), math.ceil(y2)
        window = torch.from_numpy(np.ascontiguousarray(mask[top:bottom, left:right]))
        target.copy_((255 * crop_and_resize_mean(window, box - torch.tensor([left, top, left, top]), size)).round())
    return resized


def mask_targets(masks: Tensor, boxes: Tensor, regions: Tensor, size: int) -> Tensor:
    """Compute the target of the mask head (Mask R-CNN, section 3.1): the covered fraction of each cell of a region.

    ``masks`` (..., S, S) uint8 are the box masks of the objects' ``boxes`` (..., 4); ``regions`` (..., 4) are boxes
    anywhere. Returns (..., size, size) between 0 and 1, not rounded, as in torchvision.
    """
    boxes, regions = as_float(boxes), as_float(regions)
    corner = boxes[..., :2]
    cell = (boxes[..., 2:] - corner).clamp(min=TINY) / masks.shape[-1]
    in_cells = (regions - torch.cat([corner, corner], dim=-1)) / torch.cat([cell, cell], dim=-1)
    return crop_and_resize_mean(masks, in_cells, size) / 255
