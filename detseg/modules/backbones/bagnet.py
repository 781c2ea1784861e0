"""BagNet (Brendel and Bethge 2019, arXiv:1904.00760)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from detseg.modules.backbones.convnet import ConvNet
from detseg.modules.backbones.norm import Norm

BLOCKS = (3, 4, 6, 3)  # of ResNet-50
STRIDES = (2, 2, 2, 1)
LAYERS_3X3 = {"bagnet9": 2, "bagnet17": 3, "bagnet33": 4}  # number of layers that begin with a 3 x 3 convolution


class Bottleneck(nn.Module):
    """A block of ResNet-50 whose middle convolution has any ``kernel``, without padding."""

    def __init__(self, inputs: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * channels
        self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel, stride, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.downsample is not None:
            x = self.downsample(x)
        return self.relu(y + x[:, :, : y.shape[2], : y.shape[3]])  # type: ignore[no-any-return]


class Network(nn.Module):
    """The published classifier, with the names of its weights."""

    def __init__(self, layers_3x3: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 64, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        inputs = 64
        for layer, (blocks, stride) in enumerate(zip(BLOCKS, STRIDES, strict=True)):
            channels = 64 * 2**layer
            first = Bottleneck(inputs, channels, kernel=3 if layer < layers_3x3 else 1, stride=stride)
            inputs = 4 * channels
            others = (Bottleneck(inputs, channels, kernel=1, stride=1) for _ in range(blocks - 1))
            self.add_module(f"layer{layer + 1}", nn.Sequential(first, *others))
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BagNet(ConvNet):
    """A ResNet-50 with a receptive field of 9, 17 or 33 pixels, given in its name (section 2, appendix A.1).

    Most 3 x 3 convolutions become 1 x 1, and the largest stride is 8: the maps have strides 2, 4 and 8. Published
    weights are loaded by their path.
    """

    layer_names = ("conv1", "conv2", "bn1", "relu", "layer1", "layer2", "layer3", "layer4")
    return_layers: Mapping[int, str] = {1: "layer1", 2: "layer2", 3: "layer4"}

    def __init__(
        self,
        name: Literal["bagnet9", "bagnet17", "bagnet33"] = "bagnet33",
        weights: str | None = None,
        stages: Sequence[int] = (2, 3),
        frozen: int | None = None,
        norm: Norm | None = None,
    ) -> None:
        self.padding = {"conv2": (1, 1), **{f"layer{layer}.0": (1, 1) for layer in range(1, LAYERS_3X3[name] + 1)}}
        super().__init__(name, weights, stages, frozen, norm)

    def build(self, num_classes: int) -> nn.Module:
        return Network(LAYERS_3X3[self.name], num_classes)

    def head(self, network: Any) -> dict[str, nn.Module]:
        return {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": network.fc}
