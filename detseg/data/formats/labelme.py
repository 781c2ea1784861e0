"""LabelMe annotations: a JSON file for each image, whose shapes become boxes."""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import Any

from detseg.data.annotations.builder import Builder, Source, polygon_area, polygon_box
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import AnnotationError, collects, report
from detseg.data.formats.layout import Tree, by_split, holds, read_json
from detseg.errors import DataError

log = logging.getLogger(__name__)

ANGLES = [2 * math.pi * corner / 72 for corner in range(72)]  # of the polygon that stands for a circle
OUTLINES = ("polygon", "rectangle", "circle")


def find_labelme(tree: Tree) -> list[Source]:
    """The annotation files of a folder, told by their keys shapes and imagePath."""
    files = [file for file in tree.ending(".json") if holds(tree.root / file, "shapes", "imagePath")]
    if not files:
        return []
    parts = {split: partial(read_labelme, tree, part) for split, part in by_split(files).items()}
    return [Source("LabelMe", tree.root, parts)]


def read_labelme(tree: Tree, files: list[str]) -> DetectionAnnotations:
    """Read annotation files, paths relative to the root of ``tree``; an image is found by imagePath or by the stem.

    Polygons, rectangles and circles become the boxes around them, and keep their areas and masks; points and lines have
    none and are left out, which the log says. The classes are the labels found, sorted. Raises DataError, naming file
    and shape.
    """
    builder = Builder(tree.root, tree.root)
    before = 0
    for name in files:
        file = tree.root / name
        try:
            content = read_json(file)
        except DataError as error:
            report("label-broken", file, str(error))
            continue
        shapes = content.get("shapes") if isinstance(content, dict) else None
        if not isinstance(shapes, list):
            report("label-broken", file, f"{file}: not a LabelMe file: it has no list of shapes")
            continue
        image = tree.image_of(name, _image_name(content)) or tree.image_of(name)
        if image is None:
            told = f"{file}: no image {content.get('imagePath')!r} anywhere below {tree.root}"
            report("image-missing", file, told)
            continue
        row = builder.image(image)
        before += len(shapes)
        for number, shape in enumerate(shapes, start=1):
            try:
                _add(builder, row, shape)
            except AnnotationError as flaw:
                report(flaw.kind, file, f"{file}: shape {number} {flaw}", number, image=tree.root / image)
    if (left_out := before - len(builder.rows)) and not collects():
        log.warning("%s: left out %d shapes that outline nothing (points, lines)", tree.root, left_out)
    return builder.annotations()


def _add(builder: Builder, row: int, shape: Any) -> None:
    """Add the object of a shape, if it is one. Raises Flaw."""
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
    builder.add(row, label, box, area, points)


def _image_name(content: dict[str, Any]) -> str | None:
    """What the file says of its image; the name alone counts, so that no path leads out of the folder."""
    path = content.get("imagePath")
    return path.replace("\\", "/") if isinstance(path, str) and path else None


def _shape(shape: Any) -> tuple[str, str, list[tuple[float, float]]]:
    """Kind, label and points. Raises Flaw."""
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
