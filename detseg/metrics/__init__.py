"""Metrics of detection, segmentation and classification, in the pixels of the image files.

Each is a ``torchmetrics.Metric`` with ``update``, ``compute`` and ``reset``, and exact over any number of ranks.
"""

from detseg.metrics.base import PerClassMetric
from detseg.metrics.boundary import BoundaryAP
from detseg.metrics.classification import TopKAccuracy
from detseg.metrics.coco import CocoAP, coco_results
from detseg.metrics.detection_metric import DetectionMetric
from detseg.metrics.detections import Detections, GroundTruth, annotation_targets
from detseg.metrics.lvis import LvisAP
from detseg.metrics.recall import proposal_recall
from detseg.metrics.semantic import SemanticIoU
from detseg.metrics.table import format_tables, write_metrics
from detseg.metrics.voc import VocAP

__all__ = [
    "BoundaryAP",
    "CocoAP",
    "DetectionMetric",
    "Detections",
    "GroundTruth",
    "LvisAP",
    "PerClassMetric",
    "SemanticIoU",
    "TopKAccuracy",
    "VocAP",
    "annotation_targets",
    "coco_results",
    "format_tables",
    "proposal_recall",
    "write_metrics",
]
