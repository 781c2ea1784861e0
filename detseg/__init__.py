"""Detection and segmentation, from R-CNN to Mask R-CNN, on PyTorch Lightning.

Importing the package costs nothing: what it offers is imported where it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detseg.data import COCO, VOC, Shapes
    from detseg.models import FCN, RCNN, FasterRCNN, FastRCNN, MaskRCNN
    from detseg.tasks import DetectionTask, SegmentationTask

__version__ = "0.1.0"
__all__ = [
    "COCO",
    "FCN",
    "RCNN",
    "VOC",
    "DetectionTask",
    "FastRCNN",
    "FasterRCNN",
    "MaskRCNN",
    "SegmentationTask",
    "Shapes",
    "__version__",
]

HOMES = {
    "COCO": "detseg.data",
    "VOC": "detseg.data",
    "RCNN": "detseg.models",
    "Shapes": "detseg.data",
    "FastRCNN": "detseg.models",
    "FasterRCNN": "detseg.models",
    "FCN": "detseg.models",
    "MaskRCNN": "detseg.models",
    "DetectionTask": "detseg.tasks",
    "SegmentationTask": "detseg.tasks",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
