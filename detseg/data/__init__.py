"""Data sets: readers, transforms, samplers, and the data modules that join them.

Names are imported on first use, so that reading annotations needs neither torch nor lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detseg.data.annotations import Annotations as Annotations
    from detseg.data.base import DetectionData as DetectionData
    from detseg.data.batching import collate as collate
    from detseg.data.coco import COCO as COCO
    from detseg.data.folder import Folder as Folder
    from detseg.data.shapes import Shapes as Shapes
    from detseg.data.transforms import Transforms as Transforms
    from detseg.data.voc import VOC as VOC

MODULES = {
    "Annotations": "annotations",
    "COCO": "coco",
    "DetectionData": "base",
    "Folder": "folder",
    "Shapes": "shapes",
    "Transforms": "transforms",
    "VOC": "voc",
    "collate": "batching",
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{MODULES[name]}"), name)
    globals()[name] = value
    return value
