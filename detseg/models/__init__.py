"""One paper, one file."""

from detseg.models.classifier import Classifier
from detseg.models.detector import Detector
from detseg.models.fast_rcnn import FastRCNN
from detseg.models.faster_rcnn import FasterRCNN

__all__ = ["Classifier", "Detector", "FastRCNN", "FasterRCNN"]
