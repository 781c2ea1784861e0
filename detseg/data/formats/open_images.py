"""Open Images' tables of boxes (Kuznetsova et al. 2020): corners as fractions of the image, classes by codes."""

from __future__ import annotations

import csv
import logging
import math
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from detseg.data.annotations.detection import DetectionAnnotations, ImageColumns, ObjectColumns, from_columns
from detseg.data.annotations.images import ImageSizes, Orientation
from detseg.data.annotations.issues import FAIL_FAST, AnnotationError, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.base import DatasetFormat, DatasetSource, label_source
from detseg.data.formats.layout import Tree, read_flag
from detseg.errors import DataError

log = logging.getLogger(__name__)

CORNERS = ("XMin", "YMin", "XMax", "YMax")
COLUMNS = ("ImageID", "LabelName", *CORNERS)
GROUP = "IsGroupOf"  # one box around five or more objects that touch each other
CODES = ("/m/", "/g/", "/t/")  # beginnings of the codes of classes


class OpenImagesFormat(DatasetFormat):
    """Tables of boxes such as train-annotations-bbox.csv, and class-descriptions-boxable.csv."""

    name = "OpenImages"
    tasks = ("detection",)
    marks = "class-descriptions and annotations-bbox in CSV"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Collect the tables of a folder by their headers."""
        files = [file for file in tree.ending(".csv") if set(COLUMNS) <= set(_start(tree.root / file)[0])]
        return label_source(self, tree, files, location=tree.root / files[0] if len(files) == 1 else None)

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        """Read the tables of a split."""
        return read_open_images(source.tree, source.splits[split], issues, self.orientation).with_masks(
            masks, {}, issues
        )


def read_open_images(
    tree: Tree, files: list[str], issues: IssueCollector = FAIL_FAST, orientation: Orientation = "shown"
) -> DetectionAnnotations:
    """Read tables of boxes, paths relative to the root of ``tree``; images are found by their ids anywhere below it.

    The classes are those of class-descriptions-boxable.csv, in its order; a box of a group is a crowd. Most people have
    a part of the images: boxes of the others are left out, and counted in the log. Neither the hierarchy of the classes
    nor the labels of whole images are used. Raises DataError, naming file and line.
    """
    names = read_descriptions(tree)
    table = _Boxes()
    for name in files:
        _read_table(tree, name, {code: position for position, code in enumerate(names)}, table, issues)
    if table.missing:
        example = f"{len(table.missing)} images of {', '.join(files)} are not there, such as {table.missing[0]}.jpg"
        if not table.images:
            raise DataError(f"{tree.root}: {example}; put them there")
        log.warning("%s: left out boxes: %s", tree.root, example)
    paths = list(table.images.values())
    image_sizes = ImageSizes(tree.root, issues, orientation)
    sizes = np.array([image_sizes.read(image) for image in paths], dtype=np.int32).reshape(-1, 2)
    image_index = np.array(table.image_index, dtype=np.int64)
    scale = np.tile(sizes[image_index][:, ::-1], 2)
    boxes = np.array(table.corners, dtype=np.float64).reshape(-1, 4) * scale
    image_sizes.report(tree.root, [paths[index] for index in table.image_index], boxes)
    return from_columns(
        tree.root / files[0] if len(files) == 1 else tree.root,
        {name: number for number, name in enumerate(names.values(), start=1)},
        ImageColumns(root=tree.root, files=paths, ids=np.array(list(table.images), dtype=np.str_), sizes=sizes),
        ObjectColumns(
            image_index=image_index,
            boxes=boxes,
            labels=np.array(table.labels, dtype=np.int64),
            ids=np.arange(1, len(image_index) + 1),
            crowd=np.array(table.groups, dtype=bool),
        ),
        issues,
    )


class _Boxes:
    """Boxes of the tables read so far, in arrays: there are 15 million."""

    def __init__(self) -> None:
        self.images: dict[str, str] = {}  # image id to file, in the order of the indices
        self.missing: list[str] = []  # ids of images that are not there
        self.image_index, self.labels, self.corners, self.groups = array("q"), array("q"), array("d"), bytearray()


def _read_table(tree: Tree, name: str, labels: dict[str, int], boxes: _Boxes, issues: IssueCollector) -> None:
    """Add the boxes of a table."""
    file = tree.root / name
    indices: dict[str, int | None] = {image_id: index for index, image_id in enumerate(boxes.images)}
    indices |= dict.fromkeys(boxes.missing)
    for number, values in _lines(file, issues):
        image_id = values["ImageID"]
        if image_id not in indices:
            image = tree.image_of(f"{name}/{image_id}.jpg")
            indices[image_id] = len(boxes.images) if image else None
            if image:
                boxes.images[image_id] = image
            else:
                boxes.missing.append(image_id)
        index = indices[image_id]
        if index is None:
            continue
        try:
            corners, label = _corners(values), values["LabelName"]
            if label not in labels:
                message = f"has LabelName {label!r}, which no class-descriptions names"
                raise AnnotationError("category-unknown", message)
        except AnnotationError as error:
            issues.report(error.kind, file, f"{file}: line {number} {error}", number)
            continue
        boxes.image_index.append(index)
        boxes.labels.append(labels[label])
        boxes.corners.extend(corners)
        group = values.get(GROUP, "").strip()
        boxes.groups.append(group == "1" or (group not in ("0", "") and bool(read_flag(group))))


def read_descriptions(tree: Tree) -> dict[str, str]:
    """Read the names of the classes by their codes. Raises DataError if no file names them."""
    files = [file for file in tree.ending(".csv") if any(map(_is_code, _start(tree.root / file)))]
    likely = [file for file in files if "boxable" in file.lower()] or files
    if not likely:
        raise DataError(
            f"{tree.root}: nothing names its classes: put class-descriptions-boxable.csv of Open Images there"
        )
    names: dict[str, str] = {}
    for number, values in _rows(tree.root / likely[0]):
        if _is_code(values):
            if not values[1].strip():
                raise DataError(f"{tree.root / likely[0]}: line {number} gives {values[0]} no name")
            names[values[0]] = values[1].strip()
    counts = Counter(names.values())
    return {code: f"{name} ({code})" if counts[name] > 1 else name for code, name in names.items()}


def _is_code(values: list[str]) -> bool:
    """Tell if a line of a table holds a code and one name."""
    return len(values) == 2 and values[0].startswith(CODES)


def _corners(values: dict[str, str]) -> list[float]:
    """Parse the corners of a box. Raises AnnotationError."""
    try:
        corners = [float(values[corner]) for corner in CORNERS]
    except ValueError:
        corners = [math.nan]
    if not all(abs(value) < 1e6 for value in corners):
        raise AnnotationError("box-nan", f"has corners {[values[corner] for corner in CORNERS]}, which are no numbers")
    return corners


def _lines(file: Path, issues: IssueCollector) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the lines of a table with their numbers, by the header."""
    header: list[str] | None = None
    for number, values in _rows(file):
        if header is None:
            header = [value.strip() for value in values]
        elif len(values) != len(header):
            message = f"{file}: line {number} has {len(values)} values, but the header {len(header)}"
            issues.report("label-broken", file, message, number)
        else:
            yield number, dict(zip(header, values, strict=True))


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the values of each line that is not empty. Raises DataError."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            lines = csv.reader(stream)
            for values in lines:
                if values:
                    yield lines.line_num, values
    except OSError as error:
        raise DataError(f"{file}: cannot read this table: {error.strerror}") from None
    except (csv.Error, ValueError) as error:
        raise DataError(f"{file}: broken CSV: {error}") from None


def _start(file: Path) -> list[list[str]]:
    """Read the first two lines of a table; empty if they cannot be read."""
    try:
        with file.open("rb") as stream:
            text = [stream.readline(4096).decode("utf-8-sig", errors="replace") for _ in range(2)]
    except OSError:
        text = ["", ""]
    return [[value.strip() for value in line.split(",")] for line in text]
