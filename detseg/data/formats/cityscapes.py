"""Cityscapes' fine labels (Cordts et al. 2016): objects with masks, and semantic masks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.constants import IGNORE_INDEX
from detseg.data.annotations.builder import Builder
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.images import check_pixels, read_numbers
from detseg.data.annotations.issues import FAIL_FAST, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.annotations.semantic import LabelFiles, SemanticAnnotations, semantic_masks
from detseg.data.formats.base import NO_NAMES, DatasetFormat, DatasetSource
from detseg.data.formats.layout import Tree, by_split, read_json, split_of
from detseg.errors import DataError

# By their numbers in labelIds (cityscapesScripts, labels.py); license plate has none and is not drawn.
LABELS = (
    *("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road"),
    *("sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole"),
    *("polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck"),
    *("bus", "caravan", "trailer", "train", "motorcycle", "bicycle"),
)
NOT_DRAWN = "license plate"
SINGLE = range(24, 34)  # labels whose objects are numbered
THINGS = (24, 25, 26, 27, 28, 31, 32, 33)  # the eight classes of the instance benchmark
CLASSES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # the 19 of the pixel benchmark
INSTANCES, POLYGONS = "_gtFine_instanceIds.png", "_gtFine_polygons.json"
NUMBERS, TRAIN_NUMBERS = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"
IMAGE = "_leftImg8bit.png"


class CityscapesFormat(DatasetFormat):
    """Objects of the eight classes of the benchmark, with masks. The labels of the test images are not public."""

    name = "Cityscapes"
    tasks = ("detection", "instance_segmentation")
    marks = "gtFine and leftImg8bit"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Collect the fine labels of a folder, without those of the test images."""
        pairs = label_files(tree, (INSTANCES, POLYGONS))
        parts = by_split(list(pairs))
        if "val" in parts:
            parts.pop("test", None)
        splits = {split: {name: pairs[name] for name in part} for split, part in parts.items()}
        return [DatasetSource(self, tree, tree.root, splits, has_category_ids=True)] if pairs else []

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        """Read the label files of a split."""
        return read_cityscapes(source.tree, source.splits[split], issues).with_masks(masks, {}, issues)


class CityscapesSemanticFormat(DatasetFormat):
    """The 19 classes of the benchmark, with their numbers in labelIds; the other labels are void.

    Label images are labelIds, which come in the archive, or the equivalent labelTrainIds, which cityscapesScripts
    makes. Splits are the folders train, val and test, of which the labels are not public.
    """

    name = "Cityscapes"
    tasks = ("semantic_segmentation",)
    marks = "gtFine and leftImg8bit"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Take a folder with gtFine, without the test images."""
        if not (tree.root / "gtFine").is_dir():
            return []
        splits = _semantic_splits(tree)
        public = {split: files for split, files in splits.items() if split != "test"}
        return [DatasetSource(self, tree, tree.root, public or splits)] if splits else []

    def open(self, root: Path, names: Mapping[str, str] = NO_NAMES) -> DatasetSource:
        """Open the folder of gtFine and leftImg8bit."""
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; give the folder of gtFine and leftImg8bit as root")
        tree = Tree(root)
        return DatasetSource(self, tree, root, _semantic_splits(tree))

    def select(self, source: DatasetSource, names: Mapping[str, str], masks: MaskReading) -> DatasetSource:
        """Choose splits by name, test included."""
        return super().select(replace(source, splits=_semantic_splits(source.tree)), names, masks)

    def missing_split(self, source: DatasetSource, name: str) -> str:
        """Name the archive of the labels."""
        return (
            f"{source.tree.root}: it has no {NUMBERS[1:]} of the split {name}; unpack gtFine_trainvaltest.zip there, "
            "or name another split"
        )

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> SemanticAnnotations:
        """Find the label images of a split."""
        files, root = source.splits[split], source.tree.root
        trained = all(file.endswith(TRAIN_NUMBERS) for file in files.values())
        paths = np.array([str(root / file) for file in files.values()], dtype=np.str_)
        numbers = tuple(range(len(CLASSES))) if trained else CLASSES
        void = () if trained else tuple(number for number in range(len(LABELS)) if number not in CLASSES)
        maps = LabelFiles(paths, len(CLASSES), (*void, IGNORE_INDEX), numbers)
        images = [image_of(source.tree, frame) for frame in files]
        return semantic_masks(root, [LABELS[number] for number in CLASSES], CLASSES, root, images, maps)


def _semantic_splits(tree: Tree) -> dict[str, dict[str, str]]:
    """Map splits to label images by frame: all of one kind, labelIds unless some frames have none."""
    files, trained = (label_files(tree, (ending,)) for ending in (NUMBERS, TRAIN_NUMBERS))
    splits: dict[str, dict[str, str]] = defaultdict(dict)
    for frame, file in (files if len(files) >= len(trained) else trained).items():
        splits[split_of(frame)][frame] = file
    return {split: splits[split] for split in ("train", "val", "test", "all") if split in splits}


def label_files(tree: Tree, endings: tuple[str, ...]) -> dict[str, str]:
    """Map frames (paths without the ending) to label files, with the first of ``endings`` that exists."""
    files: dict[str, str] = {}
    for ending in endings:
        for file in tree.ending(ending.lower()):
            files.setdefault(file[: -len(ending)], file)
    return dict(sorted(files.items()))


def image_of(tree: Tree, frame: str) -> str:
    """Find the image of a frame anywhere below the root of ``tree``. Raises DataError."""
    name = frame.rpartition("/")[2] + IMAGE
    image = tree.image_of(frame, name)
    if image is None:
        raise DataError(
            f"{tree.root / frame}: its image {name} is missing; unpack leftImg8bit_trainvaltest.zip as well"
        )
    return image


def read_cityscapes(tree: Tree, pairs: Mapping[str, str], issues: IssueCollector = FAIL_FAST) -> DetectionAnnotations:
    """Read label files by their frames, as ``label_files`` gives them: images of instances, or polygons.

    Polygons are painted in their order, as cityscapesScripts does to make images of instances, so that both give the
    same masks: the visible part of each object. The classes are the eight of the benchmark, with their numbers in
    labelIds; a group of objects that could not be told apart is a crowd. Raises DataError, naming the file.
    """
    builder = Builder(tree.root, tree.root, issues)
    for frame, file in pairs.items():
        path = tree.root / file
        try:
            numbers = paint(path) if file.endswith(".json") else read_numbers(path)
        except DataError as error:
            issues.report("label-broken", path, str(error))
            continue
        try:
            image = image_of(tree, frame)
        except DataError as error:
            issues.report("image-missing", path, str(error))
            continue
        height, width = numbers.shape
        builder.add_instances(builder.image(image, (height, width)), numbers, _classify)
    return builder.annotations({LABELS[number]: number for number in THINGS})


def paint(file: Path) -> NDArray[np.int32]:
    """Paint the image (h, w) of instances of a file of polygons, as json2instanceImg.py does. Raises DataError."""
    from PIL import Image, ImageDraw

    content = read_json(file)
    objects = content.get("objects") if isinstance(content, dict) else None
    if not isinstance(objects, list):
        raise DataError(f"{file}: not a file of Cityscapes' polygons: it has no list of objects")
    height, width = (content.get(key) for key in ("imgHeight", "imgWidth"))
    if not all(type(side) is int and side > 0 for side in (height, width)):
        raise DataError(f"{file}: has imgHeight = {height!r} and imgWidth = {width!r}")
    check_pixels(file, height * width, f"{width} x {height} = ")
    image = Image.new("I", (width, height))
    draw = ImageDraw.Draw(image)
    counts = dict.fromkeys(SINGLE, 0)
    for position, entry in enumerate(objects, start=1):
        try:
            number, points = _polygon(entry)
        except ValueError as error:
            raise DataError(f"{file}: object {position} {error}") from None
        if number is None:
            continue
        if number in counts and entry["label"] in LABELS:
            counts[number] += 1
            if counts[number] > 1000:
                raise DataError(f"{file}: has more than 1,000 objects called {entry['label']!r}")
            number = number * 1000 + counts[number] - 1
        draw.polygon(points, fill=number)
    return np.array(image, dtype=np.int32)


def _polygon(entry: Any) -> tuple[int | None, list[tuple[float, float]]]:
    """Parse the label number of an object, None if it is not drawn, and its corners. Raises ValueError."""
    if not isinstance(entry, dict):
        raise ValueError("is no object")
    label = entry.get("label")
    name = label.removesuffix("group") if isinstance(label, str) and label not in LABELS else label
    if entry.get("deleted") or name == NOT_DRAWN:
        return None, []
    if name not in LABELS:
        raise ValueError(f"has label = {label!r}, which Cityscapes does not have")
    try:
        points = [(float(x), float(y)) for x, y in entry["polygon"]]
    except (KeyError, TypeError, ValueError, OverflowError):
        points = [(math.nan, math.nan)]
    if len(points) < 3 or not all(abs(value) < 1e6 for point in points for value in point):
        raise ValueError("has a polygon that is not a list of three or more points")
    return LABELS.index(name), points


def _classify(number: int) -> tuple[str, bool] | None:
    """Decode a number in an image of instances: 26003 is a car, 26 a group of cars, which is a crowd."""
    label = number // 1000 if number >= 1000 else number
    return (LABELS[label], number < 1000) if label in THINGS else None
