"""Networks that turn images into feature maps. One family, one file."""

from detseg.modules.backbones.alexnet import AlexNet
from detseg.modules.backbones.backbone import Backbone
from detseg.modules.backbones.convnet import ConvNet
from detseg.modules.backbones.densenet import DenseNet
from detseg.modules.backbones.googlenet import GoogLeNet
from detseg.modules.backbones.inception import InceptionV3
from detseg.modules.backbones.mobilenet import MobileNetV2
from detseg.modules.backbones.resnet import ResNet
from detseg.modules.backbones.squeezenet import SqueezeNet
from detseg.modules.backbones.vgg import VGG

__all__ = [
    "VGG",
    "AlexNet",
    "Backbone",
    "ConvNet",
    "DenseNet",
    "GoogLeNet",
    "InceptionV3",
    "MobileNetV2",
    "ResNet",
    "SqueezeNet",
]
