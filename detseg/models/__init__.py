"""One paper, one file."""

from detseg.models.classifier import Classifier
from detseg.models.detector import Detector
from detseg.models.fast_rcnn import FastRCNN
from detseg.models.faster_rcnn import FasterRCNN
from detseg.models.mask_rcnn import MaskRCNN

__all__ = ["Classifier", "Detector", "FastRCNN", "FasterRCNN", "MaskRCNN"]
