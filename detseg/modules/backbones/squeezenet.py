"""SqueezeNet (Iandola et al. 2016, arXiv:1602.07360)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torchvision
from torch import nn

from detseg.modules.backbones.convnet import ConvNet

# Of each version: the last block of each stage, the padding that centres its first convolution, and its poolings.
RETURN_LAYERS = {
    "squeezenet1_0": {1: "features.1", 2: "features.5", 3: "features.10", 4: "features.12"},
    "squeezenet1_1": {1: "features.1", 2: "features.4", 3: "features.7", 4: "features.12"},
}
FIRST_PADDING = {"squeezenet1_0": (3, 3), "squeezenet1_1": (1, 1)}
POOLINGS = {
    "squeezenet1_0": ("features.2", "features.6", "features.11"),
    "squeezenet1_1": ("features.2", "features.5", "features.8"),
}


class SqueezeNet(ConvNet):
    """SqueezeNet with maps of stride 2, 4, 8 and 16: its first convolution, and the last fire module of each size."""

    layer_names = ("features",)

    def __init__(
        self,
        name: Literal["squeezenet1_0", "squeezenet1_1"] = "squeezenet1_1",
        weights: str | None = None,
        stages: Sequence[int] = (2, 3, 4),
        frozen: int | None = None,
    ) -> None:
        self.return_layers: Mapping[int, str] = RETURN_LAYERS[name]
        # Poolings round up, so that a pixel is missing before the map, not after it.
        self.padding = {"features.0": FIRST_PADDING[name]} | dict.fromkeys(POOLINGS[name], (1, 0))
        super().__init__(name, weights, stages, frozen)

    def build(self, num_classes: int) -> nn.Module:
        return torchvision.models.get_model(self.name, weights=None, num_classes=num_classes)  # type: ignore[no-any-return]

    def head(self, network: Any) -> dict[str, nn.Module]:
        return {"classifier": network.classifier, "flatten": nn.Flatten()}
