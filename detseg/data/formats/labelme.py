"""LabelMe annotations: a JSON file for each image, whose shapes become boxes."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detseg.data.annotations.builder import Box, Builder, polygon_area, polygon_box
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.images import Orientation, max_pixels
from detseg.data.annotations.issues import FAIL_FAST, AnnotationError, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.base import ConversionReport, DatasetFormat, DatasetSource, label_source
from detseg.data.formats.labelme_writer import write_labelme
from detseg.data.formats.layout import Tree, has_keys, read_json
from detseg.data.formats.shapes import pixel_mask
from detseg.errors import DataError

ANGLES = [2 * math.pi * corner / 72 for corner in range(72)]  # of the polygon that approximates a circle
MIN_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2}

Polygon = list[tuple[float, float]]


class LabelMeFormat(DatasetFormat):
    """A JSON file for each image, with the keys shapes and imagePath."""

    name = "LabelMe"
    tasks = ("detection", "instance_segmentation")
    marks = "a .json for each image"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Collect the annotation files of a folder by their keys."""
        labels = [file for file in tree.ending(".json") if has_keys(tree.root / file, "shapes", "imagePath")]
        return label_source(self, tree, labels, per_image=True)

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        """Read the annotation files of a split."""
        return read_labelme(source.tree, source.splits[split], issues, self.orientation).with_masks(masks, {}, issues)

    def write(
        self, splits: Mapping[str, DetectionAnnotations], out: Path, place: Callable[[Path, Path], None]
    ) -> ConversionReport:
        """Write each image with a JSON file beside it."""
        return write_labelme(splits, out, place)


def read_labelme(
    tree: Tree, files: list[str], issues: IssueCollector = FAIL_FAST, orientation: Orientation = "shown"
) -> DetectionAnnotations:
    """Read annotation files, paths relative to the root of ``tree``; an image is found by imagePath or by the stem.

    Polygons, rectangles, circles and masks become the boxes around them, and keep their areas and masks; other shapes
    are left out, and reported by type. The classes are the sorted labels. Raises DataError, naming file and shape.
    """
    builder = Builder(tree.root, tree.root, issues, orientation)
    left_out: dict[str, list[str]] = defaultdict(list)  # files by type of shape
    grouped: list[str] = []  # files, one for each shape of a group
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
        image = _find_image(tree, name, content, issues)
        if image is None:
            continue
        sides = content.get("imageHeight"), content.get("imageWidth")
        stated = all(type(side) is int and 0 < side < 10**6 for side in sides)
        index = builder.image(image, sides if stated else None)
        groups = Counter(str((one.get("label"), one.get("group_id"))) for one in shapes if isinstance(one, dict))
        for number, shape in enumerate(shapes, start=1):
            try:
                if kind := _add(builder, index, shape):
                    left_out[kind].append(name)
                elif shape.get("group_id") is not None and groups[str((shape.get("label"), shape["group_id"]))] > 1:
                    grouped.append(name)
            except AnnotationError as error:
                message = f"{file}: shape {number} {error}"
                issues.report(error.kind, file, message, number, image=tree.root / image)
    for kind, names in left_out.items():
        message = f"{tree.root}: {len(names)} shapes of the type {kind} are left out, the first in {names[0]}"
        issues.report("shape-unsupported", tree.root, message, kind)
    if grouped:
        message = f"{len(grouped)} shapes have the label and the group_id of another; each is an object of its own"
        issues.report("label-unused", tree.root, f"{tree.root}: {message}, the first in {grouped[0]}")
    return builder.annotations()


def _find_image(tree: Tree, name: str, content: dict[str, Any], issues: IssueCollector) -> str | None:
    """Find the image of a file by its imagePath, else by its stem; report None, several, and two that differ."""
    file = tree.root / name
    stated = content.get("imagePath")
    # Only its name counts, so that no path leads out of the folder.
    by_path = tree.images_of(name, stated.replace("\\", "/")) if isinstance(stated, str) and stated else []
    by_stem = tree.images_of(name)
    if by_path and by_stem and not set(by_path) & set(by_stem):
        message = f"{file}: its imagePath is {by_path[0]}, but its name is that of {by_stem[0]}; correct one of them"
        issues.report("image-ambiguous", file, message)
    elif len(images := by_path or by_stem) == 1:
        return images[0]
    elif images:
        issues.report(*tree.describe_images(file, images)[:3])
    else:
        issues.report("image-missing", file, f"{file}: no image {stated!r} anywhere below {tree.root}")
    return None


def _add(builder: Builder, image: int, shape: Any) -> str | None:
    """Add the object of a shape that has an area; return the type of any other. Raises AnnotationError."""
    kind, label, points = _shape(shape)
    mask: Polygon | bytes = points
    area = math.nan
    if kind == "circle":
        (x, y), *edge = points
        radius = math.dist((x, y), edge[0])
        box, area = (x - radius, y - radius, x + radius, y + radius), math.pi * radius**2
        mask = [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in ANGLES]
    elif kind == "rectangle":
        x1, y1, x2, y2 = box = polygon_box(points)
        mask = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    elif kind == "mask":
        box, area, mask = _pixels(shape.get("mask"), points, builder.sizes[image])
    elif kind == "polygon":
        box, area = polygon_box(points), polygon_area(points)
    else:
        return kind
    builder.add(image, label, box, area, mask)
    return None


def _pixels(content: Any, points: Polygon, size: tuple[int, int]) -> tuple[Box, float, bytes]:
    """Box, area and RLE of a mask: a PNG in base64, whose first corner is that of ``points``.

    Raises AnnotationError.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as image:
            if image.width * image.height > max_pixels():
                raise ValueError(f"{image.width} x {image.height} pixels")
            inside = np.array(image.convert("L")) > 0
    except (TypeError, ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise AnnotationError("label-broken", f"has a mask that is not a PNG in base64: {error}") from None
    left, top = (round(value) for value in points[0])
    return pixel_mask(inside, left, top, size)


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
    if len(corners) < MIN_POINTS.get(kind, 0):
        raise AnnotationError("label-broken", f"has {len(corners)} points, too few for a {kind}")
    return kind, label.strip(), corners
