"""How good predictions are, in the pixels of the image files."""

from detseg.metrics.coco import coco_ap, coco_results
from detseg.metrics.detections import Collector, Detections
from detseg.metrics.segmentation import Confusion
from detseg.metrics.table import segmentation_table, table
from detseg.metrics.voc import voc_ap

__all__ = ["Collector", "Confusion", "Detections", "coco_ap", "coco_results", "segmentation_table", "table", "voc_ap"]
