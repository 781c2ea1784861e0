"""Networks that turn images into feature maps. One family, one file."""

from detseg.modules.backbones.backbone import Backbone
from detseg.modules.backbones.mobilenet import MobileNetV2
from detseg.modules.backbones.resnet import ResNet

__all__ = ["Backbone", "MobileNetV2", "ResNet"]
