"""LabelMe annotations: a JSON file for each image, whose shapes become boxes."""

from __future__ import annotations

import logging
import math
from typing import Any

from detseg.data.annotations.builder import Builder, polygon_area, polygon_box
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import FAIL_FAST, AnnotationError, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.base import DatasetFormat, DatasetSource
from detseg.data.formats.layout import Tree, by_split, has_keys, read_json
from detseg.errors import DataError

log = logging.getLogger(__name__)

ANGLES = [2 * math.pi * corner / 72 for corner in range(72)]  # of the polygon that approximates a circle
OUTLINES = ("polygon", "rectangle", "circle")


class LabelMeFormat(DatasetFormat):
    """A JSON file for each image, with the keys shapes and imagePath."""

    name = "LabelMe"
    tasks = ("detection", "instance_segmentation")
    marks = "a .json for each image"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Collect the annotation files of a folder by their keys."""
        files = [file for file in tree.ending(".json") if has_keys(tree.root / file, "shapes", "imagePath")]
        return [DatasetSource(self, tree, tree.root, by_split(files))] if files else []

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        """Read the annotation files of a split."""
        return read_labelme(source.tree, source.splits[split], issues).with_masks(masks, {}, issues)


def read_labelme(tree: Tree, files: list[str], issues: IssueCollector = FAIL_FAST) -> DetectionAnnotations:
    """Read annotation files, paths relative to the root of ``tree``; an image is found by imagePath or by the stem.

    Polygons, rectangles and circles become the boxes around them, and keep their areas and masks; points and lines are
    left out, which is logged. The classes are the sorted labels. Raises DataError, naming file and shape.
    """
    builder = Builder(tree.root, tree.root, issues)
    count = 0
    for name in files:
        file = tree.root / name
        try:
            content = read_json(file)
        except DataError as error:
            issues.report("label-broken", file, str(error))
            continue
        shapes = content.get("shapes") if isinstance(content, dict) else None
        if not isinstance(shapes, list):
            issues.report("label-broken", file, f"{file}: not a LabelMe file: it has no list of shapes")
            continue
        image = tree.image_of(name, _image_name(content)) or tree.image_of(name)
        if image is None:
            message = f"{file}: no image {content.get('imagePath')!r} anywhere below {tree.root}"
            issues.report("image-missing", file, message)
            continue
        index = builder.image(image)
        count += len(shapes)
        for number, shape in enumerate(shapes, start=1):
            try:
                _add(builder, index, shape)
            except AnnotationError as error:
                message = f"{file}: shape {number} {error}"
                issues.report(error.kind, file, message, number, image=tree.root / image)
    if (left_out := count - len(builder.names)) and not issues.collects:
        log.warning("%s: left out %d shapes that outline nothing (points, lines)", tree.root, left_out)
    return builder.annotations()


def _add(builder: Builder, image: int, shape: Any) -> None:
    """Add the object of a shape that has an area. Raises AnnotationError."""
    kind, label, points = _shape(shape)
    if kind not in OUTLINES:
        return
    area = math.nan
    if kind == "circle":
        (x, y), *edge = points
        radius = math.dist((x, y), edge[0])
        box, area = (x - radius, y - radius, x + radius, y + radius), math.pi * radius**2
        points = [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in ANGLES]
    elif kind == "rectangle":
        x1, y1, x2, y2 = box = polygon_box(points)
        points = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    else:
        box, area = polygon_box(points), polygon_area(points)
    builder.add(image, label, box, area, points)


def _image_name(content: dict[str, Any]) -> str | None:
    """Return the imagePath; only its name counts, so that no path leads out of the folder."""
    path = content.get("imagePath")
    return path.replace("\\", "/") if isinstance(path, str) and path else None


def _shape(shape: Any) -> tuple[str, str, list[tuple[float, float]]]:
    """Parse type, label and points. Raises AnnotationError."""
    if not isinstance(shape, dict):
        raise AnnotationError("label-broken", "is no shape")
    label, kind, points = shape.get("label"), shape.get("shape_type") or "polygon", shape.get("points")
    if not isinstance(label, str) or not label.strip():
        raise AnnotationError("label-broken", f"has label = {label!r}")
    if not isinstance(kind, str):
        raise AnnotationError("label-broken", f"has shape_type = {kind!r}")
    try:
        corners = [(float(x), float(y)) for x, y in points]  # type: ignore[union-attr]
    except (TypeError, ValueError, OverflowError):
        corners = [(math.nan, math.nan)]
    if not all(math.isfinite(value) and abs(value) < 1e9 for corner in corners for value in corner):
        raise AnnotationError("box-nan", "has points that are no numbers")
    if kind in OUTLINES and len(corners) < (3 if kind == "polygon" else 2):
        raise AnnotationError("mask-broken", f"has {len(corners)} points, too few for a {kind}")
    return kind, label.strip(), corners
