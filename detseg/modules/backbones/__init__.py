"""Networks that turn images into feature maps. One family, one file."""

from detseg.modules.backbones.backbone import Backbone
from detseg.modules.backbones.convnet import ConvNet
from detseg.modules.backbones.mobilenet import MobileNetV2
from detseg.modules.backbones.resnet import ResNet

__all__ = ["Backbone", "ConvNet", "MobileNetV2", "ResNet"]
