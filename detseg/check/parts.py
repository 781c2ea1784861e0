"""What a folder holds, for a check: its format, and how each of its parts is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from detseg.data.annotations.class_names import FILES
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.semantic import SemanticAnnotations, pair
from detseg.data.formats.discovery import FINDERS, find_source
from detseg.data.formats.layout import Tree, split_of
from detseg.data.modules.camvid import CamVid
from detseg.data.modules.cityscapes import NUMBERS, TRAIN_NUMBERS, CityscapesSegmentation
from detseg.data.modules.voc_segmentation import VOCSegmentation
from detseg.errors import ConfigError, DataError

Part = DetectionAnnotations | SemanticAnnotations
Readers = Mapping[str, Callable[[], Part]]  # by "train", "val", "test", or "all" where the set is not split


class Found(NamedTuple):
    """A data set: the name of its format, and the reader of each part, that to train on first."""

    format: str
    readers: Readers


def find_parts(root: Path, format: str | None = None, labels: str | None = None, names: str | None = None) -> Found:
    """Find out what a folder is. The arguments are those of ``Folder``; ``format`` may also be one of ``SEGMENTATION``.

    Raises DataError where it is nothing that is known, or more than one thing, and ConfigError for another format.
    """
    if format not in (None, *FINDERS, *SEGMENTATION):
        raise ConfigError(f"--format {format}: there is {', '.join([*FINDERS, *SEGMENTATION])}")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the place of your data")
    kind = format or segmentation_of(root)
    if kind in SEGMENTATION:
        return Found(kind, SEGMENTATION[kind](root))
    try:
        source = find_source(root, format, labels, names, masks="any")
    except DataError:
        kind = None if format else _maps_alone(root)
        if kind is None:
            raise
        return Found(kind, SEGMENTATION[kind](root))
    return Found(source.format, source.parts)


def segmentation_of(root: Path) -> str | None:
    """Which layout of images and maps of labels a folder has for certain."""
    if (root / "trainannot").is_dir():
        return "CamVid"
    named = any((root / name).is_file() for name in FILES)
    return "FolderSegmentation" if named and (root / "images").is_dir() and (root / "masks").is_dir() else None


def _maps_alone(root: Path) -> str | None:
    """Which layout a folder has that could hold objects as well, but does not."""
    if (root / "SegmentationClass").is_dir():
        return "VOCSegmentation"
    return "CityscapesSegmentation" if (root / "gtFine").is_dir() else None


def _folder(root: Path) -> Readers:
    images, masks = root / "images", root / "masks"
    if not (images / "train").is_dir():
        return {"all": partial(pair, root, images, masks)}
    splits = [split for split in ("train", "val", "test") if (images / split).is_dir()]
    return {split: partial(pair, root, images / split, masks / split) for split in splits}


def _camvid(root: Path) -> Readers:
    splits = [split for split in ("train", "val", "test") if (root / f"{split}annot").is_dir()]
    return {split: partial(CamVid(str(root), train_split=split).read, "train") for split in splits}


def _cityscapes(root: Path) -> Readers:
    there = {split_of(file) for file in Tree(root).ending(NUMBERS.lower(), TRAIN_NUMBERS.lower())}
    splits = [split for split in ("train", "val") if split in there] or ["train"]  # those of test are not public
    return {split: partial(CityscapesSegmentation(str(root), train_split=split).read, "train") for split in splits}


def _voc_maps(root: Path) -> Readers:
    data = VOCSegmentation(str(root))
    return {"train": partial(data.read, "train"), "val": partial(data.read, "val")}


SEGMENTATION: dict[str, Callable[[Path], Readers]] = {
    "FolderSegmentation": _folder,
    "CamVid": _camvid,
    "CityscapesSegmentation": _cityscapes,
    "VOCSegmentation": _voc_maps,
}
