"""Open Images' tables of boxes (Kuznetsova et al. 2020): corners as shares of the image, classes by codes."""

from __future__ import annotations

import csv
import logging
import math
from array import array
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from detseg.data.annotations.builder import Source
from detseg.data.annotations.detection import DetectionAnnotations, pack
from detseg.data.annotations.images import image_size
from detseg.data.annotations.issues import AnnotationError, report
from detseg.data.formats.layout import Tree, by_split
from detseg.errors import DataError

log = logging.getLogger(__name__)

CORNERS = ("XMin", "YMin", "XMax", "YMax")
COLUMNS = ("ImageID", "LabelName", *CORNERS)
GROUP = "IsGroupOf"  # one box around five or more objects that touch each other
CODES = ("/m/", "/g/", "/t/")  # what codes of classes begin with


def find_open_images(tree: Tree) -> list[Source]:
    """The tables of boxes of a folder, such as train-annotations-bbox.csv, told by their headers."""
    files = [file for file in tree.ending(".csv") if set(COLUMNS) <= set(_start(tree.root / file)[0])]
    if not files:
        return []
    parts = {split: partial(read_open_images, tree, part) for split, part in by_split(files).items()}
    return [Source("OpenImages", tree.root / files[0] if len(files) == 1 else tree.root, parts)]


def read_open_images(tree: Tree, files: list[str]) -> DetectionAnnotations:
    """Read tables of boxes, paths relative to the root of ``tree``; images are found by their ids anywhere below it.

    The classes are those of class-descriptions-boxable.csv, in its order; a box of a group is a crowd. Most people have
    a part of the images: boxes of the others are left out, and counted in the log. Neither the hierarchy of the classes
    nor the labels of whole images are used. Raises DataError, naming file and line.
    """
    names = read_descriptions(tree)
    table = _Boxes()
    for name in files:
        _read_table(tree, name, {code: position for position, code in enumerate(names)}, table)
    if table.missing:
        example = f"{len(table.missing)} images of {', '.join(files)} are not there, such as {table.missing[0]}.jpg"
        if not table.images:
            raise DataError(f"{tree.root}: {example}; put them there")
        log.warning("%s: left out boxes: %s", tree.root, example)
    sizes = np.array([image_size(tree.root / image) for image in table.images.values()], dtype=np.int32).reshape(-1, 2)
    rows = np.array(table.rows, dtype=np.int64)
    return pack(
        tree.root / files[0] if len(files) == 1 else tree.root,
        classes=list(names.values()),
        category_ids=range(1, len(names) + 1),
        root=tree.root,
        files=list(table.images.values()),
        image_ids=np.array(list(table.images), dtype=np.str_),
        sizes=sizes,
        rows=rows,
        boxes=np.array(table.corners, dtype=np.float64).reshape(-1, 4) * np.tile(sizes[rows][:, ::-1], 2),
        labels=np.array(table.labels, dtype=np.int64),
        ids=np.arange(1, len(rows) + 1),
        crowd=np.array(table.bucket_ids, dtype=bool),
    )


class _Boxes:
    """What the tables read so far hold, in arrays: there are 15 million boxes."""

    def __init__(self) -> None:
        self.images: dict[str, str] = {}  # the file of each image id, in the order of the rows
        self.missing: list[str] = []  # ids of images that are not there
        self.rows, self.labels, self.corners, self.bucket_ids = array("q"), array("q"), array("d"), bytearray()


def _read_table(tree: Tree, name: str, labels: dict[str, int], boxes: _Boxes) -> None:
    """Add the boxes of a table."""
    file = tree.root / name
    rows: dict[str, int | None] = {image_id: row for row, image_id in enumerate(boxes.images)}
    rows |= dict.fromkeys(boxes.missing)
    for number, values in _lines(file):
        image_id = values["ImageID"]
        if image_id not in rows:
            image = tree.image_of(f"{name}/{image_id}.jpg")
            rows[image_id] = len(boxes.images) if image else None
            if image:
                boxes.images[image_id] = image
            else:
                boxes.missing.append(image_id)
        row = rows[image_id]
        if row is None:
            continue
        try:
            corners, label = _corners(values), values["LabelName"]
            if label not in labels:
                raise AnnotationError("category-unknown", f"has LabelName {label!r}, which no class-descriptions names")
        except AnnotationError as flaw:
            report(flaw.kind, file, f"{file}: line {number} {flaw}", number)
            continue
        boxes.rows.append(row)
        boxes.labels.append(labels[label])
        boxes.corners.extend(corners)
        boxes.bucket_ids.append(values.get(GROUP, "").strip() == "1")


def read_descriptions(tree: Tree) -> dict[str, str]:
    """The names of the classes by their codes. Raises DataError where nothing gives them."""
    files = [file for file in tree.ending(".csv") if any(map(_is_code, _start(tree.root / file)))]
    likely = [file for file in files if "boxable" in file.lower()] or files
    if not likely:
        raise DataError(
            f"{tree.root}: nothing names its classes: put class-descriptions-boxable.csv of Open Images there"
        )
    found: dict[str, str] = {}
    for number, values in _rows(tree.root / likely[0]):
        if _is_code(values):
            if not values[1].strip():
                raise DataError(f"{tree.root / likely[0]}: line {number} gives {values[0]} no name")
            found[values[0]] = values[1].strip()
    counts = Counter(found.values())
    return {code: f"{name} ({code})" if counts[name] > 1 else name for code, name in found.items()}


def _is_code(values: list[str]) -> bool:
    """Whether a line of a table gives a code and one name."""
    return len(values) == 2 and values[0].startswith(CODES)


def _corners(values: dict[str, str]) -> list[float]:
    """The corners of a box. Raises Flaw."""
    try:
        found = [float(values[corner]) for corner in CORNERS]
    except ValueError:
        found = [math.nan]
    if not all(abs(value) < 1e6 for value in found):
        raise AnnotationError("box-nan", f"has corners {[values[corner] for corner in CORNERS]}, which are no numbers")
    return found


def _lines(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a table with their numbers, by its header."""
    header: list[str] | None = None
    for number, values in _rows(file):
        if header is None:
            header = [value.strip() for value in values]
        elif len(values) != len(header):
            told = f"{file}: line {number} has {len(values)} values, but the header {len(header)}"
            report("label-broken", file, told, number)
        else:
            yield number, dict(zip(header, values, strict=True))


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The values in each line of a table that is not empty. Raises DataError."""
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
    """The first two lines of a table, with nothing in them where they cannot be read."""
    try:
        with file.open("rb") as stream:
            text = [stream.readline(4096).decode("utf-8-sig", errors="replace") for _ in range(2)]
    except OSError:
        text = ["", ""]
    return [[value.strip() for value in line.split(",")] for line in text]
