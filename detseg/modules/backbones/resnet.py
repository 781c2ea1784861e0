"""ResNet, and the plain networks it is compared with (He et al. 2015, arXiv:1512.03385)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torchvision
from torch import Tensor, nn

from detseg.modules.backbones.convnet import ConvNet
from detseg.modules.backbones.norm import Norm

PLAIN = {"plain18": (2, 2, 2, 2), "plain34": (3, 4, 6, 3)}  # blocks in conv2 to conv5


class PlainBlock(nn.Module):
    """Two 3 x 3 convolutions, as in a block of ResNet-18 or 34, without a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int = 1, *_: Any, **__: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)))  # type: ignore[no-any-return]


class ResNet(ConvNet):
    """ResNet with one map for each stage, conv1 to conv5, of stride 2, 4, 8, 16 and 32.

    A downsampling bottleneck has the stride in its 3 x 3 convolution, as in torchvision (Goyal et al. 2017,
    arXiv:1706.02677, section 5.1), not in the 1 x 1 before it as in the authors' networks: 4.1 instead of 3.8 billion
    multiply-adds for ResNet-50 (table 1). ``plain18`` and ``plain34`` have no shortcuts (section 3.3, "plain network").

    ``output_stride`` limits the stride to 16 or 8 for segmentation: later stages dilate their convolutions instead
    (torchvision's replace_stride_with_dilation). ``zero_init_residual`` starts the last batch norm of each residual
    branch at zero, so that every block begins as its shortcut (Goyal et al. 2017, section 5.1).

    Raises ValueError for an ``output_stride`` below 32 of a network without bottlenecks.
    """

    layer_names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    return_layers: Mapping[int, str] = {1: "relu", 2: "layer1", 3: "layer2", 4: "layer3", 5: "layer4"}

    def __init__(
        self,
        name: Literal["plain18", "plain34", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet50",
        weights: str | None = None,
        stages: Sequence[int] = (2, 3, 4, 5),
        frozen: int | None = None,
        norm: Norm | None = None,
        eps: float | None = None,
        output_stride: Literal[8, 16, 32] = 32,
        zero_init_residual: bool = False,
    ) -> None:
        if output_stride not in (8, 16, 32) or (output_stride < 32 and name in (*PLAIN, "resnet18", "resnet34")):
            raise ValueError(f"output_stride {output_stride}: must be 32, or with bottlenecks (resnet50 ...) 16 or 8")
        self.output_stride, self.zero_init_residual = output_stride, zero_init_residual
        super().__init__(name, weights, stages, frozen, norm, eps=eps)
        self.strides = [min(stride, output_stride) for stride in self.strides]

    def build(self, num_classes: int) -> nn.Module:
        if self.name in PLAIN:
            return torchvision.models.ResNet(PlainBlock, PLAIN[self.name], num_classes)  # type: ignore[no-any-return]
        dilated = [self.output_stride < stride for stride in (8, 16, 32)]  # conv3, conv4, conv5
        options = {"replace_stride_with_dilation": dilated, "zero_init_residual": self.zero_init_residual}
        return torchvision.models.get_model(  # type: ignore[no-any-return]
            self.name, weights=None, num_classes=num_classes, **options
        )

    def head(self, network: Any) -> dict[str, nn.Module]:
        return {"avgpool": network.avgpool, "flatten": nn.Flatten(), "fc": network.fc}
