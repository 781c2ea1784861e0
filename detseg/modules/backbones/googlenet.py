"""GoogLeNet (Szegedy et al. 2014, arXiv:1409.4842), with batch norm as torchvision has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torchvision
from torch import nn

from detseg.modules.backbones.convnet import ConvNet
from detseg.modules.backbones.norm import Norm


class GoogLeNet(ConvNet):
    """GoogLeNet with the last maps of stride 2, 4, 8, 16 and 32: conv1, conv3, inception3b, 4e and 5b.

    As a classifier it trains with two auxiliary classifiers (section 5). Images are normalised as for the published
    weights.
    """

    layer_names = (
        *("conv1", "maxpool1", "conv2", "conv3", "maxpool2", "inception3a", "inception3b", "maxpool3", "inception4a"),
        *("inception4b", "inception4c", "inception4d", "inception4e", "maxpool4", "inception5a", "inception5b"),
    )
    return_layers: Mapping[int, str] = {1: "conv1", 2: "conv3", 3: "inception3b", 4: "inception4e", 5: "inception5b"}
    image_mean = image_std = (0.5, 0.5, 0.5)
    auxiliary_inputs: ClassVar[Mapping[str, str]] = {"aux1": "inception4a", "aux2": "inception4d"}
    # Poolings round up, so that a pixel is missing before the map, not after it; maxpool4 is 2 x 2 and needs none.
    padding: Mapping[str, tuple[int, int]] = {"maxpool1": (1, 0), "maxpool2": (1, 0), "maxpool3": (1, 0)}

    def __init__(
        self,
        weights: str | None = None,
        stages: Sequence[int] = (2, 3, 4, 5),
        frozen: int | None = None,
        norm: Norm | None = None,
    ) -> None:
        super().__init__("googlenet", weights, stages, frozen, norm)

    def build(self, num_classes: int) -> nn.Module:
        return torchvision.models.GoogLeNet(num_classes, init_weights=True)  # type: ignore[no-any-return]

    def head(self, network: Any) -> dict[str, nn.Module]:
        return {"avgpool": network.avgpool, "flatten": nn.Flatten(), "dropout": network.dropout, "fc": network.fc}
