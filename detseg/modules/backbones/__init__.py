"""Backbones: networks from images to feature maps. One family, one file."""

from detseg.modules.backbones.alexnet import AlexNet
from detseg.modules.backbones.backbone import Backbone
from detseg.modules.backbones.bagnet import BagNet
from detseg.modules.backbones.basic_resnet import BasicResNet
from detseg.modules.backbones.convnet import ConvNet
from detseg.modules.backbones.densenet import DenseNet
from detseg.modules.backbones.googlenet import GoogLeNet
from detseg.modules.backbones.highway import Highway
from detseg.modules.backbones.inception import InceptionV3
from detseg.modules.backbones.mobilenet import MobileNetV1, MobileNetV2, MobileNetV3
from detseg.modules.backbones.resnet import ResNet
from detseg.modules.backbones.resnext import ResNeXt
from detseg.modules.backbones.squeezenet import SqueezeNet
from detseg.modules.backbones.timm import Timm
from detseg.modules.backbones.vgg import VGG

__all__ = [
    "VGG",
    "AlexNet",
    "Backbone",
    "BagNet",
    "BasicResNet",
    "ConvNet",
    "DenseNet",
    "GoogLeNet",
    "Highway",
    "InceptionV3",
    "MobileNetV1",
    "MobileNetV2",
    "MobileNetV3",
    "ResNeXt",
    "ResNet",
    "SqueezeNet",
    "Timm",
]
