"""One paper, one file."""

from detseg.models.classifier import Classifier
from detseg.models.detector import Detector
from detseg.models.dilated_fcn import DilatedFCN
from detseg.models.fast_rcnn import FastRCNN
from detseg.models.faster_rcnn import FasterRCNN
from detseg.models.fcn import FCN, ConvolutionalClassifier
from detseg.models.mask_rcnn import MaskRCNN
from detseg.models.rcnn import RCNN
from detseg.models.retinanet import RetinaNet
from detseg.models.segmenter import Segmenter

__all__ = [
    "FCN",
    "RCNN",
    "Classifier",
    "ConvolutionalClassifier",
    "Detector",
    "DilatedFCN",
    "FastRCNN",
    "FasterRCNN",
    "MaskRCNN",
    "RetinaNet",
    "Segmenter",
]
