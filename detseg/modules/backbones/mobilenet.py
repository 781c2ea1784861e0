"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torchvision
from torch import nn

from detseg.modules.backbones.convnet import ConvNet
from detseg.modules.backbones.norm import Norm


class MobileNetV2(ConvNet):
    """The maps of strides 2 to 32 of MobileNetV2."""

    chain = ("features",)
    taps: Mapping[int, str] = {1: "features.1", 2: "features.3", 3: "features.6", 4: "features.13", 5: "features.18"}

    def __init__(
        self,
        weights: str | None = None,
        stages: Sequence[int] = (2, 3, 4, 5),
        frozen: int | None = None,
        norm: Norm | None = None,
    ) -> None:
        super().__init__("mobilenet_v2", weights, stages, frozen, norm)

    def build(self, num_classes: int) -> nn.Module:
        return torchvision.models.mobilenet_v2(num_classes=num_classes)  # type: ignore[no-any-return]

    def head(self, network: Any) -> dict[str, nn.Module]:
        return {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "classifier": network.classifier}
