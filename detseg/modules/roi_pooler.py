"""Features of regions from one or more maps (Fast R-CNN, section 2.1; Mask R-CNN, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor

from detseg.configurable import Configurable
from detseg.kernels import is_fast, roi_align
from detseg.ops.boxes import area, as_float
from detseg.structures import Instances

SAMPLING_RATIO = 2  # RoIAlign's sampling points along each side of a bin: four a bin (Mask R-CNN, section 3)


class RoIPooler(Configurable):
    """Pool regions to square grids of bins, each from the map that fits its size (FPN, equation 1).

    A subclass names ``pool``, a function like torchvision's of one map (B, C, h, w), of regions (M, 5), each with the
    index of its image before the box, and of the number of bins along a side and the scale of the map; and its
    ``options``.
    """

    pool: Callable[..., Tensor]
    options: Mapping[str, Any] = {}

    def __call__(
        self, features: Sequence[Tensor], regions: Instances, strides: Sequence[int], pool_size: int
    ) -> Tensor:
        """Pool regions (B, R) from ``features`` of these ``strides`` to (B * R, C, pool_size, pool_size).

        Maps beyond ``strides`` are for anchors alone. The result has the precision of the maps, and shapes do not
        depend on the data.
        """
        boxes = as_float(torch.where(regions.valid[..., None], regions.boxes, 0))  # padding may hold anything
        level = assign_levels(boxes, strides)[..., None]
        image = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)[:, None, None]
        pooled: Tensor | None = None
        for index, (feature, stride) in enumerate(zip(features[: len(strides)], strides, strict=True)):
            # Boxes of other levels shrink to a point: cheap to pool, and replaced by their own level's result.
            of_level = torch.where(level == index, boxes, 0)
            rois = torch.cat([image.expand(*of_level.shape[:2], 1), of_level], dim=-1).reshape(-1, 5)
            feature = as_float(feature)
            rois = rois.to(feature.dtype)  # torchvision asks for equal types
            values = self.pool(feature, rois, pool_size, 1 / stride, **self.options)
            pooled = values if pooled is None else torch.where((level == index).reshape(-1, 1, 1, 1), values, pooled)
        assert pooled is not None
        return pooled.to(features[0].dtype)


class RoIAlign(RoIPooler):
    """Average four bilinear samples in each bin."""

    pool = staticmethod(torchvision.ops.roi_align)
    options: Mapping[str, Any] = {"sampling_ratio": SAMPLING_RATIO, "aligned": False}

    def __call__(
        self, features: Sequence[Tensor], regions: Instances, strides: Sequence[int], pool_size: int
    ) -> Tensor:
        if not is_fast():
            return super().__call__(features, regions, strides, pool_size)
        boxes = torch.where(regions.valid[..., None], regions.boxes, 0)
        maps, levels = features[: len(strides)], assign_levels(boxes, strides)
        return roi_align(maps, boxes, levels, strides, pool_size, SAMPLING_RATIO).to(features[0].dtype)


class RoIPool(RoIPooler):
    """Take the maximum of the pixels in each bin, rounded to whole pixels."""

    pool = staticmethod(torchvision.ops.roi_pool)


def assign_levels(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """Assign each box to a pyramid level (FPN, equation 1): (B, R, 4) to (B, R) int64 indices into ``strides``.

    A box of 224 pixels (ImageNet's side) belongs to the map of stride 16, half of it to that of stride 8, and so on.
    """
    first, last = (stride.bit_length() - 1 for stride in (strides[0], strides[-1]))
    # 1e-6: a box of exactly 224 pixels must not fall a level by rounding.
    level = torch.floor(4 + torch.log2(area(boxes).sqrt().clamp(min=1e-6) / 224) + 1e-6)
    return level.clamp(first, last).to(torch.int64) - first
