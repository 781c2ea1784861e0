"""VGG (Simonyan and Zisserman 2014, arXiv:1409.1556): every column of Table 1, and torchvision's with batch norm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torchvision
from torch import nn

from detseg.errors import CheckpointError
from detseg.modules.backbones.convnet import ConvNet
from detseg.modules.backbones.norm import Norm

WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = {  # Table 1: number of convolutions before each of the five poolings
    "vgg11": (1, 1, 2, 2, 2),  # A
    "vgg13": (2, 2, 2, 2, 2),  # B
    "vgg16": (2, 2, 3, 3, 3),  # C and D
    "vgg19": (2, 2, 4, 4, 4),  # E
}


class VGG(ConvNet):
    """VGG with its maps conv2, conv3, conv4, conv5 and pool5, of stride 2, 4, 8, 16 and 32.

    ``vgg11_lrn`` is column A-LRN of the paper and ``vgg16_1x1`` its column C; torchvision has no weights for these.
    With weights, conv1 and conv2 are frozen: Fast R-CNN (section 4.5) trains conv3_1 and up. ``pooled`` returns the
    maps pool1 to pool5 instead, of the same strides, as FCN uses them.

    Raises CheckpointError for torchvision's ``IMAGENET1K_FEATURES``, which need another normalisation.
    """

    layer_names = ("features",)
    default_frozen = 1

    def __init__(
        self,
        name: Literal[
            "vgg11",
            "vgg11_lrn",
            "vgg13",
            "vgg16_1x1",
            "vgg16",
            "vgg19",
            "vgg11_bn",
            "vgg13_bn",
            "vgg16_bn",
            "vgg19_bn",
        ] = "vgg16",
        weights: str | None = None,
        stages: Sequence[int] = (2, 3, 4, 5),
        frozen: int | None = None,
        norm: Norm | None = None,
        pooled: bool = False,
    ) -> None:
        if weights == "IMAGENET1K_FEATURES":
            raise CheckpointError(f"{weights}: need another normalisation of the images; use IMAGENET1K_V1, or a file")
        poolings = [index for index, layer in enumerate(_features(name)) if isinstance(layer, nn.MaxPool2d)]
        if pooled:
            self.return_layers: Mapping[int, str] = {
                stage: f"features.{pooling}" for stage, pooling in enumerate(poolings, 1)
            }
        else:
            before = {stage: f"features.{poolings[stage] - 1}" for stage in (1, 2, 3, 4)}
            self.return_layers = before | {5: f"features.{poolings[4]}"}
        super().__init__(name, weights, stages, frozen, norm)

    def build(self, num_classes: int) -> nn.Module:
        return torchvision.models.VGG(nn.Sequential(*_features(self.name)), num_classes)  # type: ignore[no-any-return]

    def head(self, network: Any) -> dict[str, nn.Module]:
        return {"avgpool": network.avgpool, "flatten": nn.Flatten(), "classifier": network.classifier}


def _features(name: str) -> Iterator[nn.Module]:
    """Yield the layers of Table 1 from the first convolution to the last pooling, in torchvision's order."""
    depths, _, variant = name.partition("_")
    inputs = 3
    for block, (depth, width) in enumerate(zip(DEPTHS[depths], WIDTHS, strict=True)):
        for position in range(depth):
            size = 1 if variant == "1x1" and position == 2 else 3
            yield nn.Conv2d(inputs, width, size, padding=size // 2)
            if variant == "bn":
                yield nn.BatchNorm2d(width)
            yield nn.ReLU(inplace=True)
            inputs = width
        if variant == "lrn" and block == 0:
            # AlexNet's constants; its alpha multiplies the sum over the channels, PyTorch's their mean.
            yield nn.LocalResponseNorm(size=5, alpha=5e-4, beta=0.75, k=2)
        yield nn.MaxPool2d(2, stride=2)
