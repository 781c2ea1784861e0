"""What a folder holds, for a check: its format, and how each of its parts is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from detseg.data.annotations import Annotations
from detseg.data.builder import Source
from detseg.data.camvid import CamVid
from detseg.data.class_names import FILES
from detseg.data.coco import COCO
from detseg.data.coco_format import Split, find_only_annotations, read_coco
from detseg.data.folder import Folder
from detseg.data.folder_segmentation import pair
from detseg.data.label_maps import LabelMaps
from detseg.data.voc_format import find_ids, find_splits, find_voc, read_voc
from detseg.data.voc_segmentation import VOCSegmentation
from detseg.errors import DataError

Part = Annotations | LabelMaps
Readers = Mapping[str, Callable[[], Part]]  # by "train", "val", "test", or "all" where the set is not split

SEGMENTATION = ("FolderSegmentation", "CamVid", "VOCSegmentation")


class Found(NamedTuple):
    """A data set: the name of its format, and the reader of each part, that to train on first."""

    format: str
    readers: Readers


def find_parts(root: Path, format: str | None = None, labels: str | None = None, names: str | None = None) -> Found:
    """Find out what a folder is. The arguments are those of ``Folder``; ``format`` may also be one of ``SEGMENTATION``.

    Raises DataError where it is nothing that is known, or more than one thing, and ConfigError for another format.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the place of your data")
    kind = format or segmentation_of(root)
    if kind in SEGMENTATION:
        return Found(kind, {"FolderSegmentation": _folder, "CamVid": _camvid, "VOCSegmentation": _voc_maps}[kind](root))
    try:
        found = Folder(str(root), format, labels, names, masks="sound")._found
    except DataError:
        if format is None and (root / "SegmentationClass").is_dir():
            return Found("VOCSegmentation", _voc_maps(root))
        raise
    if isinstance(found, Source):
        return Found(found.format, found.parts)
    return Found("COCO", _coco(found)) if isinstance(found, COCO) else Found("VOC", _voc(root))


def segmentation_of(root: Path) -> str | None:
    """Which layout of images and maps of labels a folder has for certain."""
    if (root / "trainannot").is_dir():
        return "CamVid"
    named = any((root / name).is_file() for name in FILES)
    return "FolderSegmentation" if named and (root / "images").is_dir() and (root / "masks").is_dir() else None


def _coco(data: COCO) -> Readers:
    """The files of a data set; not by ``data`` itself, which splits what is not split."""

    def read(file: Path, split: Split | None) -> Annotations:
        return read_coco(file, data.places.folder(file, split), "sound")

    train, val = (data.places.file(split) for split in ("train", "val"))
    if train and val:
        return {"train": partial(read, train, "train"), "val": partial(read, val, "val")}
    if val:
        return {"train": partial(data.read, "train"), "val": partial(read, val, "val")}
    return {"all": partial(read, train or find_only_annotations(data.root), "train" if train else None)}


def _voc(root: Path) -> Readers:
    """The lists for training, validation and test; objects have masks where there is a folder of them."""
    folder = find_voc(root)
    lists = {file.stem for file in (folder / "ImageSets" / "Main").glob("*.txt")}
    masks = any(entry.name.lower() == "segmentationobject" for entry in folder.iterdir())

    def read(name: str | None) -> Annotations:
        return read_voc(folder, find_ids(folder, name), "sound" if masks else "none")

    splits = find_splits(folder)
    if not splits:
        return {"all": partial(read, None)}
    return {name: partial(read, name) for name in dict.fromkeys([*splits, *({"test"} & lists)])}


def _folder(root: Path) -> Readers:
    images, masks = root / "images", root / "masks"
    if not (images / "train").is_dir():
        return {"all": partial(pair, root, images, masks)}
    splits = [split for split in ("train", "val", "test") if (images / split).is_dir()]
    return {split: partial(pair, root, images / split, masks / split) for split in splits}


def _camvid(root: Path) -> Readers:
    splits = [split for split in ("train", "val", "test") if (root / f"{split}annot").is_dir()]
    return {split: partial(CamVid(str(root), train_split=split).read, "train") for split in splits}


def _voc_maps(root: Path) -> Readers:
    data = VOCSegmentation(str(root))
    return {"train": partial(data.read, "train"), "val": partial(data.read, "val")}
