"""Data: one data module for each task; format and split are arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detseg.compat.common import Build, Hook, note, rename

DATA_MODULES: dict[str, tuple[str, str | None]] = {  # today's class and format
    "Folder": ("DetectionDataModule", None),
    "FolderSegmentation": ("SegmentationDataModule", None),
    "COCOSegmentation": ("SegmentationDataModule", "COCO"),
    "VOCSegmentation": ("SegmentationDataModule", "VOC"),
    "CamVid": ("SegmentationDataModule", "CamVid"),
    "CityscapesSegmentation": ("SegmentationDataModule", "Cityscapes"),
    "ImageFolders": ("ClassificationDataModule", None),
}
SPLIT_NAMES = {
    **{f"{split}_{kind}": split for split in ("train", "val") for kind in ("split", "file")},
    "val_fraction": "val_fraction",
}
KEYS = {"data.workers": "data.num_workers"} | {f"data.{old}": f"data.split.{new}" for old, new in SPLIT_NAMES.items()}
VALUES = {"data.masks": {"sound": "valid"}}  # of options, by today's key


def _data(coco_format: str | None = None, dropped: Sequence[str] = (), split: Mapping[str, str] = SPLIT_NAMES) -> Hook:
    """Return a hook for a data module: ``coco_format`` takes the arguments of COCO's files, nothing ``dropped``."""

    def hook(init_args: dict[str, Any], build: Build) -> dict[str, Any]:
        for key in init_args.keys() & set(dropped):
            note(key, None)
        old = {*SPLIT_NAMES, "train_images", "val_images", "classes", "sbd", "labels", "names", "format"}
        settings = {
            key: value for key, value in init_args.items() if key not in dropped and not (key in old and value is None)
        }
        settings |= rename(settings, {"workers": "num_workers"})
        if settings.get("masks") == "sound":
            settings["masks"] = "valid"
        if names := rename(settings, dict(split)):
            settings["split"] = {**settings.get("split", {}), **names}
        coco: dict[str, Any] = rename(settings, {"classes": "classes"}) if coco_format else {}
        if images := rename(settings, {"train_images": "train", "val_images": "val"}):
            coco["images"] = images
        if coco and coco_format:
            settings["format"] = build(coco_format, coco)
        if sbd := rename(settings, {"sbd": "sbd"}):
            settings["format"] = build("VocSemanticFormat", sbd)
        if yolo := rename(settings, {"labels": "labels", "names": "names"}):
            settings["format"] = build("YoloFormat", yolo)
        return settings

    return hook


OBJECT_HOOKS = {
    **dict.fromkeys(("DetectionDataModule", "COCO", "VOC"), _data("CocoFormat", split=SPLIT_NAMES | {"seed": "seed"})),
    "SegmentationDataModule": _data("CocoSemanticFormat", split=SPLIT_NAMES | {"seed": "seed"}),
    "ClassificationDataModule": _data(),
    "Shapes": _data(dropped=("sampling", "bad_samples")),
    "ShapesSegmentation": _data(dropped=("bad_samples",)),
    "ShapeCrops": _data(dropped=("area",)),
}


def data_module(name: str) -> tuple[str, str | None]:
    """Return today's class and format of a data module of 0.1.0."""
    new, format = DATA_MODULES[name]
    note(name, f"{new} with format {format}" if format else new)
    return new, format
