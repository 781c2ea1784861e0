"""Inception-v3 (Szegedy et al. 2015, arXiv:1512.00567)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torchvision
from torch import nn

from detseg.modules.backbones.convnet import ConvNet
from detseg.modules.backbones.norm import Norm


class InceptionV3(ConvNet):
    """Inception-v3 with the last maps of stride 2, 4, 8, 16 and 32: Conv2d_2b, Conv2d_4a, Mixed_5d, 6e and 7c.

    Convolutions are factorised: 5 x 5 into two 3 x 3 (one 5 x 5 remains in each block of stride 8), n x n into n x 1
    and 1 x n (section 3). As a classifier it trains with one auxiliary classifier (section 4), which needs images of
    at least 299 x 299. Images are normalised as for the published weights.
    """

    layer_names = (
        *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"),
        *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
        *("Mixed_7a", "Mixed_7b", "Mixed_7c"),
    )
    return_layers: Mapping[int, str] = {
        1: "Conv2d_2b_3x3",
        2: "Conv2d_4a_3x3",
        3: "Mixed_5d",
        4: "Mixed_6e",
        5: "Mixed_7c",
    }
    image_size = 299
    image_mean = image_std = (0.5, 0.5, 0.5)
    auxiliary_inputs: ClassVar[Mapping[str, str]] = {"AuxLogits": "Mixed_6e"}
    padding: Mapping[str, tuple[int, int]] = dict.fromkeys(  # every block that begins with an unpadded 3 x 3
        ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "maxpool1", "Conv2d_4a_3x3", "maxpool2", "Mixed_6a", "Mixed_7a"), (1, 1)
    )

    def __init__(
        self,
        weights: str | None = None,
        stages: Sequence[int] = (2, 3, 4, 5),
        frozen: int | None = None,
        norm: Norm | None = None,
    ) -> None:
        super().__init__("inception_v3", weights, stages, frozen, norm)

    def build(self, num_classes: int) -> nn.Module:
        return torchvision.models.Inception3(num_classes, init_weights=True)  # type: ignore[no-any-return]

    def head(self, network: Any) -> dict[str, nn.Module]:
        return {"avgpool": network.avgpool, "dropout": network.dropout, "flatten": nn.Flatten(), "fc": network.fc}
