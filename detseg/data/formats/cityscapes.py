"""Cityscapes' fine labels (Cordts et al. 2016): objects with masks, and where the files of an image lie."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.builder import Builder, Source
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.instance_id_maps import add_objects, read_instance_ids
from detseg.data.annotations.issues import report
from detseg.data.formats.layout import Tree, by_split, read_json
from detseg.errors import DataError

# By their numbers in labelIds (cityscapesScripts, labels.py); license plate has none and is not drawn.
LABELS = (
    *("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road"),
    *("sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole"),
    *("polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck"),
    *("bus", "caravan", "trailer", "train", "motorcycle", "bicycle"),
)
NOT_DRAWN = "license plate"
SINGLE = range(24, 34)  # whose objects are told apart
THINGS = (24, 25, 26, 27, 28, 31, 32, 33)  # the eight of them that the benchmark of instances measures
INSTANCES, POLYGONS = "_gtFine_instanceIds.png", "_gtFine_polygons.json"
IMAGE = "_leftImg8bit.png"


def find_cityscapes(tree: Tree) -> list[Source]:
    """The fine labels of objects in a folder. Those of the test images are left out: they are not public."""
    pairs = label_files(tree, (INSTANCES, POLYGONS))
    parts = by_split(list(pairs))
    if "val" in parts:
        parts.pop("test", None)
    read = {
        split: partial(read_cityscapes, tree, {name: pairs[name] for name in part}) for split, part in parts.items()
    }
    return [Source("Cityscapes", tree.root, read, numbered=True)] if pairs else []


def label_files(tree: Tree, endings: tuple[str, ...]) -> dict[str, str]:
    """The label file of each frame by its path without the ending; the first of ``endings`` that there is."""
    found: dict[str, str] = {}
    for ending in endings:
        for file in tree.ending(ending.lower()):
            found.setdefault(file[: -len(ending)], file)
    return dict(sorted(found.items()))


def image_of(tree: Tree, frame: str) -> str:
    """The image of a frame, anywhere below the root of ``tree``. Raises DataError."""
    name = frame.rpartition("/")[2] + IMAGE
    image = tree.image_of(frame, name)
    if image is None:
        raise DataError(
            f"{tree.root / frame}: its image {name} is missing; unpack leftImg8bit_trainvaltest.zip as well"
        )
    return image


def read_cityscapes(tree: Tree, pairs: dict[str, str]) -> DetectionAnnotations:
    """Read label files by their frames, as ``label_files`` gives them: images of instances, or polygons.

    Polygons are painted in their order, as cityscapesScripts makes images of instances of them, so that both give the
    same masks: what can be seen of each object. The classes are the eight of the benchmark, with their numbers in
    labelIds; a group of objects that could not be told apart is a crowd. Raises DataError, naming the file.
    """
    builder = Builder(tree.root, tree.root)
    for frame, file in pairs.items():
        path = tree.root / file
        try:
            numbers = paint(path) if file.endswith(".json") else read_instance_ids(path)
        except DataError as error:
            report("label-broken", path, str(error))
            continue
        try:
            image = image_of(tree, frame)
        except DataError as error:
            report("image-missing", path, str(error))
            continue
        height, width = numbers.shape
        row = builder.image(image, (height, width))
        add_objects(builder, row, numbers, _meaning)
    return builder.annotations({LABELS[number]: number for number in THINGS})


def paint(file: Path) -> NDArray[np.int32]:
    """The image (h, w) of instances of a file of polygons, as json2instanceImg.py draws it. Raises DataError."""
    from PIL import Image, ImageDraw

    content = read_json(file)
    objects = content.get("objects") if isinstance(content, dict) else None
    if not isinstance(objects, list):
        raise DataError(f"{file}: not a file of Cityscapes' polygons: it has no list of objects")
    height, width = (content.get(key) for key in ("imgHeight", "imgWidth"))
    if not all(type(side) is int and side > 0 for side in (height, width)):
        raise DataError(f"{file}: has imgHeight = {height!r} and imgWidth = {width!r}")
    if height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise DataError(f"{file}: its image has {width}x{height} pixels, more than an image may have")
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
    """The number of the label of an object, None if it is not drawn, and its corners. Raises ValueError."""
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


def _meaning(number: int) -> tuple[str, bool] | None:
    """The class of a number in an image of instances: 26003 is a car, 26 alone a group of cars, which is a crowd."""
    label = number // 1000 if number >= 1000 else number
    return (LABELS[label], number < 1000) if label in THINGS else None
