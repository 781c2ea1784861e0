"""Annotations of Apple's Create ML: a JSON list of images with boxes by their centres, in pixels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import FAIL_FAST, AnnotationError, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.base import DatasetFormat, DatasetSource, label_source
from detseg.data.formats.layout import Tree, read_json
from detseg.data.formats.reading import TableReader, json_files
from detseg.data.formats.shapes import parse_numbers
from detseg.errors import DataError

IMAGE_KEYS, OBJECT_KEYS = ("image", "imagefilename"), ("annotations", "annotation")  # of today, and of Turi Create
SIDES = ("x", "y", "width", "height")


class CreateMlFormat(DatasetFormat):
    """JSON lists with an image and its annotations, each a label and coordinates, as Create ML takes them."""

    name = "CreateML"
    tasks = ("detection", "instance_segmentation")
    marks = "a .json with image, annotations, label and coordinates"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Collect the files of a folder by their keys."""
        files = json_files(tree, "[", "label", "coordinates", "width")
        return label_source(self, tree, files)

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        """Read the files of a split."""
        reader = TableReader(source.tree, issues, self.orientation)
        return read_createml(reader, source.splits[split]).with_masks(masks, {}, issues)


def read_createml(reader: TableReader, files: list[str]) -> DetectionAnnotations:
    """Read files, paths relative to the root of the reader's tree. The classes are the sorted labels.

    Raises DataError, naming file, image and annotation.
    """
    for name in files:
        for entry in reader.parse(name, _entries) or []:
            title = next((str(entry[key]) for key in IMAGE_KEYS if entry.get(key)), "").replace("\\", "/")
            image = reader.image(name, title)
            if image is None:
                continue
            objects: Any = next((entry[key] for key in OBJECT_KEYS if entry.get(key)), [])
            for number, one in enumerate(objects if isinstance(objects, list) else [objects], start=1):
                with reader.located(name, f"image {title!r}: annotation {number}", image):
                    label, (x, y, width, height) = _object(one)
                    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                    reader.builder.add(image, label, box, math.nan)
    return reader.table()


def _entries(file: Path) -> list[dict[str, Any]]:
    """Read the entries of the images. Raises DataError."""
    content = read_json(file)
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise DataError(f"{file}: not a file of Create ML: it is not a list of images")
    return content


def _object(one: Any) -> tuple[str, list[float]]:
    """Parse the label of an object, and its centre, width and height. Raises AnnotationError."""
    label, coordinates = (one.get("label"), one.get("coordinates")) if isinstance(one, dict) else (None, None)
    if not isinstance(label, str) or not label.strip():
        raise AnnotationError("label-broken", f"has label = {label!r}")
    if not isinstance(coordinates, dict):
        raise AnnotationError("label-broken", "has no coordinates")
    return label.strip(), parse_numbers(map(coordinates.get, SIDES), "coordinates")
