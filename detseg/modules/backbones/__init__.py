"""Networks that turn images into feature maps. One family, one file."""

from detseg.modules.backbones.backbone import Backbone
from detseg.modules.backbones.bagnet import BagNet
from detseg.modules.backbones.convnet import ConvNet
from detseg.modules.backbones.highway import Highway
from detseg.modules.backbones.mobilenet import MobileNetV1, MobileNetV2, MobileNetV3
from detseg.modules.backbones.resnet import ResNet
from detseg.modules.backbones.resnext import ResNeXt
from detseg.modules.backbones.timm import Timm

__all__ = [
    "Backbone",
    "BagNet",
    "ConvNet",
    "Highway",
    "MobileNetV1",
    "MobileNetV2",
    "MobileNetV3",
    "ResNeXt",
    "ResNet",
    "Timm",
]
