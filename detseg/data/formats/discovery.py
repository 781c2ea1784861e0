"""What a folder holds of which nobody says what it is: the format, and how each part of it is read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from detseg.data.annotations.builder import Source
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.cityscapes import find_cityscapes
from detseg.data.formats.coco.layout import find_images, find_only_annotations, find_split, is_coco, is_cut
from detseg.data.formats.coco.reader import read_coco
from detseg.data.formats.csv import find_csv
from detseg.data.formats.labelme import find_labelme
from detseg.data.formats.layout import SPLIT_PATTERNS, Tree, by_split
from detseg.data.formats.lvis import find_lvis
from detseg.data.formats.open_images import find_open_images
from detseg.data.formats.voc import AmbiguousFormatError, find_ids, find_splits, find_voc, read_voc, read_xml
from detseg.data.formats.yolo import find_yolo
from detseg.errors import DataError

log = logging.getLogger(__name__)

SOUGHT = (
    "COCO (.json with images, annotations, categories), VOC (an .xml for each image), YOLO (a .txt for each image, and "
    "data.yaml), LabelMe (a .json for each image), CSV (a header with filename, class, xmin, ymin, xmax and ymax), "
    "Cityscapes (gtFine and leftImg8bit), LVIS (COCO's, with neg_category_ids), OpenImages (class-descriptions and "
    "annotations-bbox in CSV)"
)


def find_coco(tree: Tree, masks: MaskReading = "none") -> list[Source]:
    """The annotation files of a folder for training, validation and test, or one for all its images.

    Raises DataError where several files could be one of these.
    """
    named = {word: file for word in SPLIT_PATTERNS if (file := find_split(tree.root, word))}
    files = {word: file for word, file in named.items() if is_coco(file)}
    if files:  # then one that is cut off is a fault, and not something else
        files |= {word: file for word, file in named.items() if word not in files and is_cut(file)}
    if not files:
        try:
            files = {"all": file} if is_coco(file := find_only_annotations(tree.root)) else {}
        except DataError:
            return []
    if len(files) == 1:
        files = dict(zip(["all"], files.values(), strict=True))
    elif files and "train" not in files:
        raise DataError(f"{tree.root}: there are COCO annotations to validate on and to test, but none to train on")
    parts = {word: partial(_read_coco, tree.root, word, file, masks) for word, file in files.items()}
    return [Source("COCO", tree.root, parts, numbered=True)] if files else []


def _read_coco(root: Path, word: str, file: Path, masks: MaskReading) -> DetectionAnnotations:
    """Read the file of a part; its images are looked for now, not when the format is found out."""
    images = find_images(root, file, None if word == "all" else word)
    return read_coco(file, images, masks)


def find_voc_sets(tree: Tree, masks: MaskReading = "none") -> list[Source]:
    """The data set of a folder, with lists of its images or without, or .xml files that lie anywhere in it.

    Raises DataError for several data sets that are not the splits of one.
    """
    files = [file for file in tree.ending(".xml") if b"<annotation" in _start(tree.root / file)]
    if not files:
        return []
    parts = by_split(files)
    try:
        root = find_voc(tree.root)
    except DataError as error:
        if "all" in parts and isinstance(error, AmbiguousFormatError):
            raise
        loose = {word: partial(read_xml, tree, part, masks) for word, part in parts.items()}
        return [Source("VOC", tree.root, loose)]
    kind = "Segmentation" if masks in ("all", "valid") and find_splits(root, "Segmentation") else "Main"
    splits = find_splits(root, kind)
    lists: dict[str, str | None] = {"train": splits[0], "val": splits[1]} if splits else {"all": None}
    if splits and splits[1] != "test" and (root / "ImageSets" / kind / "test.txt").is_file():
        lists["test"] = "test"
    return [Source("VOC", root, {word: partial(_read_voc, root, name, kind, masks) for word, name in lists.items()})]


def _read_voc(root: Path, name: str | None, kind: str, masks: MaskReading) -> DetectionAnnotations:
    """Read the images of a list, or all."""
    return read_voc(root, find_ids(root, name, kind), masks)


def find_source(
    root: Path,
    format: str | None = None,
    labels: str | None = None,
    names: str | None = None,
    masks: MaskReading = "none",
) -> Source:
    """Find out what a folder is, and say so; ``format``, ``labels`` and ``names`` are as in ``Folder``.

    Raises DataError unless it is one thing.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the place of your data")
    tree = Tree(root)
    finders = FINDERS | {
        "COCO": partial(find_coco, masks=masks),
        "VOC": partial(find_voc_sets, masks=masks),
        "LVIS": partial(find_lvis, masks=masks),
        "YOLO": partial(find_yolo, names=names),
    }
    found = [one for name, find in finders.items() if format in (None, name) for one in find(tree)]
    if labels:
        found = [one for one in found if one.place.name == labels]
    if len(found) == 1:
        parts = ", ".join(found[0].parts)
        log.info("%s: taken for a data set in the format %s (%s)", root, _called(found[0], root), parts)
        return found[0]
    if found:
        several = "; ".join(_called(one, root) for one in found)
        raise DataError(
            f"{root}: it holds labels more than once: {several}. "
            "Say which with `--data.format YOLO` or another, and `--data.labels FOLDER` for one of several of YOLO"
        )
    suffixes = Counter(Path(file).suffix or "no suffix" for file in tree.files)
    there = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(8))
    raise DataError(
        f"{root}: no labels of a known format. Looked for {SOUGHT}. Found files: {there or 'none'}{_nearly(tree)}"
    )


def _called(source: Source, root: Path) -> str:
    """The name of a format, and where in ``root`` it was found."""
    return source.format if source.place == root else f"{source.format} in {source.place}"


def _nearly(tree: Tree) -> str:
    """What is wrong with the files that could have been COCO's, if there are few."""
    files = tree.ending(".json")
    if not 0 < len(files) < 4:
        return ""
    cut = [f"; {file} is cut off: copy it again" for file in files if is_cut(tree.root / file)]
    return "".join([f"; no images, annotations and categories of COCO in {', '.join(files)}", *cut])


def _start(file: Path) -> bytes:
    """The beginning of a file, empty if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return stream.read(4096)
    except OSError:
        return b""


FINDERS: dict[str, Callable[[Tree], list[Source]]] = {
    "COCO": find_coco,
    "VOC": find_voc_sets,
    "YOLO": find_yolo,
    "LabelMe": find_labelme,
    "CSV": find_csv,
    "Cityscapes": find_cityscapes,
    "LVIS": find_lvis,
    "OpenImages": find_open_images,
}
