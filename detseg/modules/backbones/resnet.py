"""ResNet, and the plain networks that it is compared with (He et al. 2015, arXiv:1512.03385)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torchvision
from torch import Tensor, nn

from detseg.modules.backbones.convnet import ConvNet
from detseg.modules.backbones.norm import Norm

PLAIN = {"plain18": (2, 2, 2, 2), "plain34": (3, 4, 6, 3)}  # blocks in conv2 to conv5


class PlainBlock(nn.Module):
    """Two convolutions of 3 x 3, as in a block of ResNet-18 or 34 but without anything that goes round them."""

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
    """The stages conv1 to conv5 of a ResNet, each one map, of stride 2, 4, 8, 16 and 32.

    Where the size of the map changes, a bottleneck has the stride in its convolution of 3 x 3 (torchvision), not in the
    1 x 1 before it (section 3.3 and table 1): 4.1 instead of 3.8 billion multiply-adds for ResNet-50. ``plain18`` and
    ``plain34`` are the networks without any shortcut (section 3.3, "plain network").

    An ``output_stride`` of 16 or 8 is that of the coarsest map: the stages beyond it keep it, and dilate their
    convolutions instead, as segmentation wants it (torchvision's replace_stride_with_dilation).

    Raises ValueError where there is none of that: for networks without bottlenecks.
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
    ) -> None:
        if output_stride not in (8, 16, 32) or (output_stride < 32 and name in (*PLAIN, "resnet18", "resnet34")):
            raise ValueError(f"output_stride {output_stride}: must be 32, or with bottlenecks (resnet50 ...) 16 or 8")
        self.output_stride = output_stride
        super().__init__(name, weights, stages, frozen, norm, eps=eps)
        self.strides = [min(stride, output_stride) for stride in self.strides]

    def build(self, num_classes: int) -> nn.Module:
        if self.name in PLAIN:
            return torchvision.models.ResNet(PlainBlock, PLAIN[self.name], num_classes)  # type: ignore[no-any-return]
        dilated = [self.output_stride < stride for stride in (8, 16, 32)]  # conv3, conv4, conv5
        return torchvision.models.get_model(  # type: ignore[no-any-return]
            self.name, weights=None, num_classes=num_classes, replace_stride_with_dilation=dilated
        )

    def head(self, network: Any) -> dict[str, nn.Module]:
        return {"avgpool": network.avgpool, "flatten": nn.Flatten(), "fc": network.fc}
