"""Features of boxes over a feature pyramid: RoIPool (Fast R-CNN, section 2.1), RoIAlign (Mask R-CNN, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torchvision
from torch import Tensor

from detseg.ops.boxes import area, as_float

SAMPLING_RATIO = 2  # RoIAlign's sampling points along each side of a bin: four a bin (Mask R-CNN, section 3)


def assign_levels(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """Assign each box to a pyramid level (FPN, equation 1): (B, R, 4) to (B, R) int64 indices into ``strides``.

    A box of 224 pixels (ImageNet's side) belongs to the map of stride 16, half of it to that of stride 8, and so on.
    """
    first, last = (stride.bit_length() - 1 for stride in (strides[0], strides[-1]))
    # 1e-6: a box of exactly 224 pixels must not fall a level by rounding.
    level = torch.floor(4 + torch.log2(area(boxes).sqrt().clamp(min=1e-6) / 224) + 1e-6)
    return level.clamp(first, last).to(torch.int64) - first


def roi_align(features: Sequence[Tensor], boxes: Tensor, strides: Sequence[int], size: int) -> Tensor:
    """Average four bilinear samples in each of ``size`` x ``size`` bins of each box.

    ``features`` are maps (B, C, h, w), fine to coarse, of ``strides``; ``boxes`` (B, R, 4) in pixels of the input.
    Returns (B * R, C, size, size).
    """
    pool = partial(torchvision.ops.roi_align, sampling_ratio=SAMPLING_RATIO, aligned=False)
    return _pool_levels(pool, features, boxes, strides, size)


def roi_pool(features: Sequence[Tensor], boxes: Tensor, strides: Sequence[int], size: int) -> Tensor:
    """Take the maximum of the pixels in each of ``size`` x ``size`` bins of each box, rounded to whole pixels.

    Arguments and result as for ``roi_align``.
    """
    return _pool_levels(torchvision.ops.roi_pool, features, boxes, strides, size)


def _pool_levels(
    pool: Callable[..., Tensor], features: Sequence[Tensor], boxes: Tensor, strides: Sequence[int], size: int
) -> Tensor:
    """Pool each box from the map of its level, with shapes that do not depend on the data."""
    boxes = as_float(boxes)
    level = assign_levels(boxes, strides)[..., None]
    image = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)[:, None, None].expand(*boxes.shape[:2], 1)
    pooled: Tensor | None = None
    for index, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        # Boxes of other levels shrink to a point: cheap to pool, and replaced by their own level's result.
        rois = torch.cat([image, torch.where(level == index, boxes, 0)], dim=-1).reshape(-1, 5)
        feature = as_float(feature)
        values = pool(feature, rois.to(feature.dtype), size, 1 / stride)  # torchvision asks for equal types
        pooled = values if pooled is None else torch.where((level == index).reshape(-1, 1, 1, 1), values, pooled)
    assert pooled is not None
    return pooled
