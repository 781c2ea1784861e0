"""Anchors of every pyramid level (Faster R-CNN, section 3.1.1; FPN, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from torch import Tensor

from detseg.modules.part import Part
from detseg.ops.anchors import base_anchors, grid_anchors


class AnchorGenerator(Part):
    """Place anchors of all ``sizes`` and ``aspect_ratios`` over each cell of the feature maps.

    ``sizes`` are square roots of areas in pixels, a list for each map, finest first; by default 8 times the stride on a
    pyramid and 32 to 512 on a single map. ``aspect_ratios`` are height over width.
    """

    def __init__(
        self, sizes: Sequence[Sequence[float]] | None = None, aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    ) -> None:
        super().__init__()
        self.sizes, self.aspect_ratios = sizes, aspect_ratios

    def build(self, strides: Sequence[int]) -> Self:
        """Compute the anchors of a cell of each map.

        Raises ValueError unless there is a list of sizes for each map, all equally long.
        """
        if self.build_once(strides=list(strides)):
            default = [[8 * stride] for stride in strides] if len(strides) > 1 else [[32, 64, 128, 256, 512]]
            sizes = default if self.sizes is None else self.sizes
            if len(sizes) != len(strides):
                raise ValueError(f"sizes of anchors has {len(sizes)} lists, but the backbone {len(strides)} maps")
            if len({len(level) for level in sizes}) > 1:
                raise ValueError(
                    f"sizes of anchors {[list(level) for level in sizes]}: every map needs the same number"
                )
            self.num_anchors_per_cell = len(sizes[0]) * len(self.aspect_ratios)
            # Buffers, so that they move with the module; constants, so not in its state.
            for level, level_sizes in enumerate(sizes):
                of_cell = base_anchors(level_sizes, self.aspect_ratios)
                self.register_buffer(f"base_anchors{level}", of_cell, persistent=False)
        return self

    @property
    def base_anchors(self) -> list[Tensor]:
        """Anchors (n, 4) of each map, centred on the origin."""
        return list(self.buffers(recurse=False))

    def forward(self, features: Sequence[Tensor], image_shape: Sequence[int]) -> list[Tensor]:
        """Place anchors (h * w * n, 4) on each of ``features`` (B, C, h, w) of images of this height and width."""
        height, width = image_shape
        return [
            grid_anchors(of_cell, (feature.shape[2], feature.shape[3]), (height, width))
            for feature, of_cell in zip(features, self.base_anchors, strict=True)
        ]
