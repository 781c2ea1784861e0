"""MobileNet, versions 1 to 3."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torchvision
from torch import nn

from detseg.modules.backbones.convnet import ConvNet
from detseg.modules.backbones.norm import Norm

# Output channels and stride of each block (MobileNetV1, table 1).
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))

RETURN_BLOCKS = {  # the last block of each stage of MobileNetV3 (tables 1 and 2)
    "mobilenet_v3_large": (1, 3, 6, 12, 16),
    "mobilenet_v3_small": (0, 1, 3, 8, 12),
}


class MobileNetV1(ConvNet):
    """MobileNet with maps of strides 2 to 32 (Howard et al. 2017, arXiv:1704.04861).

    ``alpha``, the width multiplier, thins every layer (section 3.3).

    Raises ValueError unless it leaves at least one channel.
    """

    layer_names = ("features",)
    return_layers: Mapping[int, str] = {stage: f"features.{block}" for stage, block in enumerate((1, 3, 5, 11, 13), 1)}

    def __init__(
        self,
        alpha: float = 1.0,
        weights: str | None = None,
        stages: Sequence[int] = (2, 3, 4, 5),
        frozen: int | None = None,
        norm: Norm | None = None,
    ) -> None:
        if int(32 * alpha) < 1:
            raise ValueError(f"alpha {alpha}: leaves no channel of 32; the paper uses 1.0, 0.75, 0.5 and 0.25")
        self.alpha = alpha
        super().__init__(f"mobilenet_v1 with alpha {alpha:g}", weights, stages, frozen, norm)

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        return [{"alpha": alpha} for alpha in (1.0, 0.75, 0.5, 0.25)]

    def build(self, num_classes: int) -> nn.Module:
        width = int(32 * self.alpha)
        features: list[nn.Module] = [_layer(3, width, kernel=3, stride=2)]
        for channels, stride in BLOCKS:
            inputs, width = width, int(channels * self.alpha)
            depthwise = _layer(inputs, inputs, kernel=3, stride=stride, groups=inputs)
            features.append(nn.Sequential(*depthwise, *_layer(inputs, width)))
        network = nn.Sequential(
            OrderedDict(features=nn.Sequential(*features), classifier=nn.Linear(width, num_classes))
        )
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return network

    def head(self, network: Any) -> dict[str, nn.Module]:
        return {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "classifier": network.classifier}


class MobileNetV2(ConvNet):
    """MobileNetV2 with maps of strides 2 to 32 (Sandler et al. 2018, arXiv:1801.04381)."""

    layer_names = ("features",)
    return_layers: Mapping[int, str] = {stage: f"features.{block}" for stage, block in enumerate((1, 3, 6, 13, 18), 1)}

    def __init__(
        self,
        weights: str | None = None,
        stages: Sequence[int] = (2, 3, 4, 5),
        frozen: int | None = None,
        norm: Norm | None = None,
    ) -> None:
        super().__init__("mobilenet_v2", weights, stages, frozen, norm)

    def build(self, num_classes: int) -> nn.Module:
        return torchvision.models.mobilenet_v2(num_classes=num_classes)  # type: ignore[no-any-return]

    def head(self, network: Any) -> dict[str, nn.Module]:
        return {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "classifier": network.classifier}


class MobileNetV3(ConvNet):
    """MobileNetV3 with maps of strides 2 to 32 (Howard et al. 2019, arXiv:1905.02244).

    ``return_stage_start`` also returns the map of the first block of the last stage, before that of its last block, as
    torchvision's detectors use both of stage 5.
    """

    layer_names = ("features",)

    def __init__(
        self,
        name: Literal["mobilenet_v3_large", "mobilenet_v3_small"] = "mobilenet_v3_large",
        weights: str | None = None,
        stages: Sequence[int] = (2, 3, 4, 5),
        frozen: int | None = None,
        norm: Norm | None = None,
        eps: float | None = None,
        return_stage_start: bool = False,
    ) -> None:
        self.return_layers = {stage: f"features.{block}" for stage, block in enumerate(RETURN_BLOCKS[name], 1)}
        super().__init__(name, weights, stages, frozen, norm, eps=eps)
        if return_stage_start:
            last = self.stages[-1]
            first = RETURN_BLOCKS[name][last - 2] + 1 if last > 1 else 0
            self.return_blocks.insert(-1, f"features.{first}")
            self.strides.insert(-1, 2**last)
            self.channels = self._channels()

    def build(self, num_classes: int) -> nn.Module:
        return torchvision.models.get_model(self.name, weights=None, num_classes=num_classes)  # type: ignore[no-any-return]

    def head(self, network: Any) -> dict[str, nn.Module]:
        return {"avgpool": network.avgpool, "flatten": nn.Flatten(), "classifier": network.classifier}


def _layer(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Build a layer of MobileNetV1: convolution, batch norm and ReLU (section 3.2, figure 3)."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
