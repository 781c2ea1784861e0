"""DenseNet (Huang et al. 2016, arXiv:1608.06993), with bottlenecks and compression (DenseNet-BC)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torchvision
from torch import nn

from detseg.modules.backbones.convnet import ConvNet
from detseg.modules.backbones.norm import Norm


class DenseNet(ConvNet):
    """DenseNet with maps of stride 2, 4, 8, 16 and 32: its first convolution and its four dense blocks.

    A dense block concatenates maps that every later layer normalises and rectifies for itself, so its output is
    neither. The maps are therefore the next ones that are: in the transition after the block, before the convolution
    that halves the channels, and after the last block before the classifier.
    """

    layer_names = ("features",)
    return_layers: Mapping[int, str] = {
        1: "features.relu0",
        2: "features.transition1.relu",
        3: "features.transition2.relu",
        4: "features.transition3.relu",
        5: "features.relu5",
    }

    def __init__(
        self,
        name: Literal["densenet121", "densenet161", "densenet169", "densenet201"] = "densenet121",
        weights: str | None = None,
        stages: Sequence[int] = (2, 3, 4, 5),
        frozen: int | None = None,
        norm: Norm | None = None,
    ) -> None:
        super().__init__(name, weights, stages, frozen, norm)

    def build(self, num_classes: int) -> nn.Module:
        network = torchvision.models.get_model(self.name, weights=None, num_classes=num_classes)
        network.features.add_module("relu5", nn.ReLU(inplace=True))  # torchvision applies it in ``forward``
        return network  # type: ignore[no-any-return]

    def head(self, network: Any) -> dict[str, nn.Module]:
        return {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "classifier": network.classifier}
