"""How good predictions are."""

from detseg.metrics.classification import TopK
from detseg.metrics.coco import coco_ap, coco_results
from detseg.metrics.detections import Collector, Detections
from detseg.metrics.recall import proposal_recall
from detseg.metrics.table import table
from detseg.metrics.voc import voc_ap

__all__ = ["Collector", "Detections", "TopK", "coco_ap", "coco_results", "proposal_recall", "table", "voc_ap"]
