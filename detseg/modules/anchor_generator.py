"""Anchors, the reference boxes of every pyramid level (Faster R-CNN, section 3.1.1; FPN, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from detseg.modules.part import Part
from detseg.ops.anchors import ASPECT_RATIOS, SCALE, base_anchors


class AnchorGenerator(Part):
    """Place anchors of all ``sizes`` and ``aspect_ratios`` over each cell of the feature maps.

    ``sizes`` are square roots of areas in pixels, a list for each map, finest first; by default 8 times the stride on a
    pyramid (FPN), and 32 to 512 on a single map (Mask R-CNN, section 3.1; Faster R-CNN has 128 to 512).
    ``aspect_ratios`` are height over width.
    """

    def __init__(
        self, sizes: Sequence[Sequence[float]] | None = None, aspect_ratios: Sequence[float] = ASPECT_RATIOS
    ) -> None:
        super().__init__()
        self.sizes, self.aspect_ratios = sizes, aspect_ratios

    def build(self, strides: Sequence[int]) -> Self:
        """Compute the anchors of a cell of each map.

        Raises ValueError unless there is a list of sizes for each map, all equally long.
        """
        if self.build_once(strides=list(strides)):
            default = [[SCALE * stride] for stride in strides] if len(strides) > 1 else [[32, 64, 128, 256, 512]]
            sizes = default if self.sizes is None else self.sizes
            if len(sizes) != len(strides):
                raise ValueError(f"sizes of anchors has {len(sizes)} lists, but the backbone {len(strides)} maps")
            if len({len(level) for level in sizes}) > 1:
                raise ValueError(
                    f"sizes of anchors {[list(level) for level in sizes]}: every map needs the same number"
                )
            self.num_anchors_per_cell = len(sizes[0]) * len(self.aspect_ratios)
            for level, level_sizes in enumerate(sizes):
                anchors = torch.tensor(base_anchors(level_sizes, self.aspect_ratios))
                # Buffers, so that they move with the module; constants, so not in its state.
                self.register_buffer(f"base_anchors{level}", anchors, persistent=False)
        return self

    @property
    def base_anchors(self) -> list[Tensor]:
        """Anchors (n, 4) of each map, centred on the origin, ratio by ratio."""
        return list(self.buffers(recurse=False))

    def forward(self, features: Sequence[Tensor], image_shape: Sequence[int]) -> list[Tensor]:
        """Place anchors (h * w * n, 4), row by row, on each of ``features`` (B, C, h, w) of images of this shape.

        The step between neighbours is the padded size of the batch over that of the map, rounded down: the map's
        stride, except for a map that was rounded up (P6 of an image 800 pixels high is 13 high, and its step 61, not
        64), where the anchors of an image depend on the padding. This is torchvision's rule, and its weights were
        trained with it.
        """
        anchors = []
        for feature, base in zip(features, self.buffers(recurse=False), strict=True):
            y, x = (
                torch.arange(cells, device=base.device) * (pixels // cells)
                for cells, pixels in zip(feature.shape[2:], image_shape, strict=True)
            )
            y, x = torch.meshgrid(y, x, indexing="ij")
            shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
            anchors.append((shifts + base).reshape(-1, 4))
        return anchors
