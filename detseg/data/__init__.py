"""Data sets: readers, transforms, samplers, and the data modules that join them.

Names are imported on first use, so that reading annotations needs neither torch nor lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detseg.data.annotations import Annotations as Annotations
    from detseg.data.batching import collate as collate
    from detseg.data.camvid import CamVid as CamVid
    from detseg.data.cityscapes import CityscapesSegmentation as CityscapesSegmentation
    from detseg.data.coco import COCO as COCO
    from detseg.data.coco_segmentation import COCOSegmentation as COCOSegmentation
    from detseg.data.detection import DetectionData as DetectionData
    from detseg.data.folder import Folder as Folder
    from detseg.data.folder_segmentation import FolderSegmentation as FolderSegmentation
    from detseg.data.image_folders import ImageFolders as ImageFolders
    from detseg.data.label_maps import LabelMaps as LabelMaps
    from detseg.data.mixing import MixingTransforms as MixingTransforms
    from detseg.data.sampling import ClassBalanced as ClassBalanced
    from detseg.data.sampling import RepeatFactor as RepeatFactor
    from detseg.data.sampling import Sampling as Sampling
    from detseg.data.segmentation import SegmentationData as SegmentationData
    from detseg.data.segmentation_transforms import SegmentationTransforms as SegmentationTransforms
    from detseg.data.shapes import ShapeCrops as ShapeCrops
    from detseg.data.shapes import Shapes as Shapes
    from detseg.data.shapes_segmentation import ShapesSegmentation as ShapesSegmentation
    from detseg.data.transforms import Transforms as Transforms
    from detseg.data.voc import VOC as VOC
    from detseg.data.voc_segmentation import VOCSegmentation as VOCSegmentation

MODULES = {
    "Annotations": "annotations",
    "COCO": "coco",
    "COCOSegmentation": "coco_segmentation",
    "CamVid": "camvid",
    "CityscapesSegmentation": "cityscapes",
    "DetectionData": "detection",
    "ClassBalanced": "sampling",
    "ImageFolders": "image_folders",
    "MixingTransforms": "mixing",
    "RepeatFactor": "sampling",
    "Sampling": "sampling",
    "ShapeCrops": "shapes",
    "FolderSegmentation": "folder_segmentation",
    "LabelMaps": "label_maps",
    "SegmentationData": "segmentation",
    "SegmentationTransforms": "segmentation_transforms",
    "Folder": "folder",
    "Shapes": "shapes",
    "ShapesSegmentation": "shapes_segmentation",
    "Transforms": "transforms",
    "VOC": "voc",
    "VOCSegmentation": "voc_segmentation",
    "collate": "batching",
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{MODULES[name]}"), name)
    globals()[name] = value
    return value
