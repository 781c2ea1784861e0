"""A convolutional highway network (Srivastava et al. 2015, arXiv:1505.00387)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detseg.modules.backbones.convnet import ConvNet

CHANNELS = (64, 64, 128, 256, 512)  # of each stage
PLAIN = len(CHANNELS) + 1  # plain layers with weights: the first of each stage, and the classifier


class HighwayLayer(nn.Module):
    """y = H(x) T(x) + x (1 - T(x)): the transform gate T weights the computed against the carried value.

    H is a 3 x 3 convolution with ReLU, T one with a sigmoid (section 2, equation 3; section 2.1 for convolutions). The
    bias of the gate is initialised to ``gate_bias``, below zero, so that an untrained layer mostly carries its input
    (section 2.2).
    """

    def __init__(self, channels: int, gate_bias: float) -> None:
        super().__init__()
        self.transform = _convolution(channels, channels)
        self.gate = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.constant_(self.gate.bias, gate_bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(x, F.relu(self.transform(x)), self.gate(x).sigmoid())


class Highway(ConvNet):
    """Five stages of strides 2 to 32, each a plain convolution with the stride and then highway layers.

    In the paper plain layers change the size of a map, and highway layers follow (section 2.1), without batch norm. It
    has no network for large images: the stages, their channels (those of ResNet-18) and the first 7 x 7 layer are not
    from the paper. ``depth`` counts the layers with weights, including the classifier, as in section 3.2; the last four
    stages share the highway layers evenly, finer ones first.

    Raises ValueError unless ``depth`` leaves a highway layer for each of these, and ``gate_bias`` is negative.
    """

    layer_names = tuple(f"layer{stage}" for stage in range(1, 6))
    return_layers: Mapping[int, str] = {stage: f"layer{stage}" for stage in range(1, 6)}

    def __init__(
        self,
        depth: int = 18,
        gate_bias: float = -2.0,
        weights: str | None = None,
        stages: Sequence[int] = (2, 3, 4, 5),
        frozen: int | None = None,
    ) -> None:
        if depth < PLAIN + 4:
            raise ValueError(f"depth {depth}: must be at least {PLAIN + 4}, {PLAIN} plain and 4 highway layers")
        if gate_bias >= 0:
            raise ValueError(f"gate_bias {gate_bias}: must be negative, so that the layers carry their input at first")
        self.depth, self.gate_bias = depth, gate_bias
        super().__init__(f"highway{depth}", weights, stages, frozen)

    def build(self, num_classes: int) -> nn.Module:
        inputs = 3
        layers = OrderedDict[str, nn.Module]()
        for stage, (name, channels) in enumerate(zip(self.layer_names, CHANNELS, strict=True)):
            plain = _convolution(inputs, channels, kernel=3 if stage else 7, stride=2)
            count = (self.depth - PLAIN + 4 - stage) // 4 if stage else 0
            highway = (HighwayLayer(channels, self.gate_bias) for _ in range(count))
            layers[name] = nn.Sequential(nn.Sequential(plain, nn.ReLU(inplace=True)), *highway)
            inputs = channels
        return nn.Sequential(layers | {"fc": nn.Linear(inputs, num_classes)})

    def head(self, network: Any) -> dict[str, nn.Module]:
        return {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": network.fc}


def _convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
