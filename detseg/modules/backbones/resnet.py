"""ResNet (He et al. 2015, arXiv:1512.03385)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torchvision
from torch import nn

from detseg.modules.backbones.convnet import ConvNet
from detseg.modules.backbones.norm import Norm


class ResNet(ConvNet):
    """The stages conv1 to conv5 of a ResNet, each one map, of stride 2, 4, 8, 16 and 32."""

    chain = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    taps: Mapping[int, str] = {1: "relu", 2: "layer1", 3: "layer2", 4: "layer3", 5: "layer4"}

    def __init__(
        self,
        name: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet50",
        weights: str | None = None,
        stages: Sequence[int] = (2, 3, 4, 5),
        frozen: int | None = None,
        norm: Norm | None = None,
    ) -> None:
        super().__init__(name, weights, stages, frozen, norm)

    def build(self, num_classes: int) -> nn.Module:
        return torchvision.models.get_model(self.name, weights=None, num_classes=num_classes)  # type: ignore[no-any-return]

    def head(self, network: Any) -> dict[str, nn.Module]:
        return {"avgpool": network.avgpool, "flatten": nn.Flatten(), "fc": network.fc}
