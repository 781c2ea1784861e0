"""How good predictions are, in the pixels of the image files."""

from detseg.metrics.classification import TopK
from detseg.metrics.coco import coco_ap, coco_results
from detseg.metrics.detections import Collector, Detections
from detseg.metrics.recall import proposal_recall
from detseg.metrics.segmentation import Confusion
from detseg.metrics.table import segmentation_table, table
from detseg.metrics.voc import voc_ap

__all__ = [
    "Collector",
    "Confusion",
    "Detections",
    "TopK",
    "coco_ap",
    "coco_results",
    "proposal_recall",
    "segmentation_table",
    "table",
    "voc_ap",
]
