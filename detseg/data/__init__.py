"""Data sets: readers, transforms, samplers, and the data modules that join them.

Names are imported on first use, so that reading annotations needs neither torch nor lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detseg.data.annotations.detection import DetectionAnnotations as DetectionAnnotations
    from detseg.data.annotations.semantic import SemanticAnnotations as SemanticAnnotations
    from detseg.data.loading.collate import collate as collate
    from detseg.data.loading.repeat_factors import ClassBalanced as ClassBalanced
    from detseg.data.loading.repeat_factors import ImageSampling as ImageSampling
    from detseg.data.loading.repeat_factors import RepeatFactor as RepeatFactor
    from detseg.data.modules.camvid import CamVid as CamVid
    from detseg.data.modules.cityscapes import CityscapesSegmentation as CityscapesSegmentation
    from detseg.data.modules.classification import ImageFolders as ImageFolders
    from detseg.data.modules.coco import COCO as COCO
    from detseg.data.modules.coco_segmentation import COCOSegmentation as COCOSegmentation
    from detseg.data.modules.detection import DetectionDataModule as DetectionDataModule
    from detseg.data.modules.folder import Folder as Folder
    from detseg.data.modules.folder_segmentation import FolderSegmentation as FolderSegmentation
    from detseg.data.modules.segmentation import SegmentationDataModule as SegmentationDataModule
    from detseg.data.modules.shapes import ShapeCrops as ShapeCrops
    from detseg.data.modules.shapes import Shapes as Shapes
    from detseg.data.modules.shapes_segmentation import ShapesSegmentation as ShapesSegmentation
    from detseg.data.modules.voc import VOC as VOC
    from detseg.data.modules.voc_segmentation import VOCSegmentation as VOCSegmentation
    from detseg.data.transforms.detection import Transforms as Transforms
    from detseg.data.transforms.mixing import MixingTransforms as MixingTransforms
    from detseg.data.transforms.segmentation import SegmentationTransforms as SegmentationTransforms

MODULES = {
    "DetectionAnnotations": "annotations.detection",
    "COCO": "modules.coco",
    "COCOSegmentation": "modules.coco_segmentation",
    "CamVid": "modules.camvid",
    "CityscapesSegmentation": "modules.cityscapes",
    "DetectionDataModule": "modules.detection",
    "ClassBalanced": "loading.repeat_factors",
    "ImageFolders": "modules.classification",
    "MixingTransforms": "transforms.mixing",
    "RepeatFactor": "loading.repeat_factors",
    "ImageSampling": "loading.repeat_factors",
    "ShapeCrops": "modules.shapes",
    "FolderSegmentation": "modules.folder_segmentation",
    "SemanticAnnotations": "annotations.semantic",
    "SegmentationDataModule": "modules.segmentation",
    "SegmentationTransforms": "transforms.segmentation",
    "Folder": "modules.folder",
    "Shapes": "modules.shapes",
    "ShapesSegmentation": "modules.shapes_segmentation",
    "Transforms": "transforms.detection",
    "VOC": "modules.voc",
    "VOCSegmentation": "modules.voc_segmentation",
    "collate": "loading.collate",
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{MODULES[name]}"), name)
    globals()[name] = value
    return value
