"""ResNeXt (Xie et al. 2016, arXiv:1611.05431)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck

from detseg.modules.backbones.norm import Norm
from detseg.modules.backbones.resnet import ResNet

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # in conv2 to conv5


class ResNeXt(ResNet):
    """A ResNet with bottlenecks of ``cardinality`` paths, each ``width`` channels wide in conv2.

    The paths are the groups of a grouped convolution (section 3.3, figure 3c). ``ResNeXt(50, 32, 4)`` is the paper's
    ResNeXt-50, 32 x 4d. torchvision has weights for 50 32 x 4d, 101 32 x 8d and 101 64 x 4d.

    Raises ValueError unless both are at least 1.
    """

    def __init__(
        self,
        depth: Literal[50, 101, 152] = 50,
        cardinality: int = 32,
        width: int = 4,
        weights: str | None = None,
        stages: Sequence[int] = (2, 3, 4, 5),
        frozen: int | None = None,
        norm: Norm | None = None,
    ) -> None:
        if cardinality < 1 or width < 1:
            raise ValueError(f"cardinality {cardinality}, width {width}: both must be at least 1")
        self.depth, self.cardinality, self.width = depth, cardinality, width
        name: Any = f"resnext{depth}_{cardinality}x{width}d"  # torchvision's name
        super().__init__(name, weights, stages, frozen, norm)

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        sizes = (50, 32, 4), (101, 32, 4), (101, 32, 8), (101, 64, 4)
        return [{"depth": depth, "cardinality": paths, "width": width} for depth, paths, width in sizes]

    def build(self, num_classes: int) -> nn.Module:
        groups = {"groups": self.cardinality, "width_per_group": self.width}
        return torchvision.models.ResNet(Bottleneck, BLOCKS[self.depth], num_classes, **groups)  # type: ignore[no-any-return]
