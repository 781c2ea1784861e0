"""Features of regions from one or more maps (Fast R-CNN, section 2.1; Mask R-CNN, section 3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from detseg.configurable import Configurable
from detseg.kernels import roi_align
from detseg.ops.roi_pooling import roi_pool
from detseg.structures import Instances


class RoIPooler(Configurable, ABC):
    """Pool regions to square grids of bins, each from the map that fits its size (FPN, equation 1)."""

    def __call__(
        self, features: Sequence[Tensor], regions: Instances, strides: Sequence[int], pool_size: int
    ) -> Tensor:
        """Pool regions (B, R) from ``features`` of these ``strides`` to (B * R, C, pool_size, pool_size).

        Maps beyond ``strides`` are for anchors alone. The result has the precision of the maps.
        """
        boxes = torch.where(regions.valid[..., None], regions.boxes, 0)  # padding may hold anything
        return self.pool(features[: len(strides)], boxes, strides, pool_size).to(features[0].dtype)

    @abstractmethod
    def pool(self, features: Sequence[Tensor], boxes: Tensor, strides: Sequence[int], pool_size: int) -> Tensor:
        """Pool ``boxes`` (B, R, 4) to (B * R, C, pool_size, pool_size)."""


class RoIAlign(RoIPooler):
    """Average four bilinear samples in each bin."""

    def pool(self, features: Sequence[Tensor], boxes: Tensor, strides: Sequence[int], pool_size: int) -> Tensor:
        return roi_align(features, boxes, strides, pool_size)


class RoIPool(RoIPooler):
    """Take the maximum of the pixels in each bin, rounded to whole pixels."""

    def pool(self, features: Sequence[Tensor], boxes: Tensor, strides: Sequence[int], pool_size: int) -> Tensor:
        return roi_pool(features, boxes, strides, pool_size)
