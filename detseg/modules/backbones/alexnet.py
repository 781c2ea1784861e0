"""AlexNet (Krizhevsky et al. 2012; the single column of Krizhevsky 2014, arXiv:1404.5997)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torchvision
from torch import nn

from detseg.modules.backbones.convnet import ConvNet


class AlexNet(ConvNet):
    """AlexNet with its maps conv1, conv2, conv5 and pool5, of stride 4, 8, 16 and 32."""

    layer_names = ("features",)
    return_layers: Mapping[int, str] = {2: "features.1", 3: "features.4", 4: "features.11", 5: "features.12"}
    padding: Mapping[str, tuple[int, int]] = {
        "features.0": (3, 3),
        "features.2": (1, 1),
        "features.5": (1, 1),
        "features.12": (1, 1),
    }

    def __init__(
        self,
        weights: str | None = None,
        stages: Sequence[int] = (2, 3, 4, 5),
        frozen: int | None = None,
    ) -> None:
        super().__init__("alexnet", weights, stages, frozen)

    def build(self, num_classes: int) -> nn.Module:
        return torchvision.models.alexnet(num_classes=num_classes)  # type: ignore[no-any-return]

    def head(self, network: Any) -> dict[str, nn.Module]:
        return {"avgpool": network.avgpool, "flatten": nn.Flatten(), "classifier": network.classifier}
