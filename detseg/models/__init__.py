"""One paper, one file."""

from detseg.models.detector import Detector
from detseg.models.faster_rcnn import FasterRCNN

__all__ = ["Detector", "FasterRCNN"]
