"""Networks so small that what they compute is known beforehand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detseg.modules.backbones import ConvNet


class SmallNet(ConvNet):
    """One convolution and a ReLU over the pixels themselves, from 0 to 255; stage 0 is all there is."""

    layer_names = ("conv", "relu")
    return_layers: Mapping[int, str] = {0: "relu"}
    image_mean, image_std = (0, 0, 0), (1 / 255,) * 3

    def __init__(self, kernel: list[Any], weights: str | None = None) -> None:
        self.kernel = torch.tensor(kernel, dtype=torch.float32)  # (channels, 3, side, side)
        super().__init__("small_net", weights, [0], None)

    def build(self, num_classes: int) -> nn.Module:
        channels, _, side, _ = self.kernel.shape
        conv = nn.Conv2d(3, channels, side, bias=False)
        conv.weight.data = self.kernel.clone()
        return nn.Sequential(OrderedDict(conv=conv, relu=nn.ReLU(inplace=True)))

    def head(self, model: Any) -> dict[str, nn.Module]:
        return {}


def identity() -> Tensor:
    """The kernel that gives back red, green and blue."""
    return torch.eye(3)[:, :, None, None]
