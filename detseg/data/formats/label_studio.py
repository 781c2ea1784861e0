"""JSON exports of Label Studio: tasks with results in per cent of the image."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.images import SUFFIXES
from detseg.data.annotations.issues import FAIL_FAST, AnnotationError, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.base import DatasetFormat, DatasetSource, label_source
from detseg.data.formats.layout import Tree, read_json
from detseg.data.formats.reading import ROTATED, TableReader, json_files
from detseg.data.formats.shapes import Outline, ellipse, parse_numbers, pixel_mask, polygon, rotated_box
from detseg.errors import DataError

UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # that Label Studio puts before the name of an uploaded file
RECTANGLE, ELLIPSE = ("x", "y", "width", "height"), ("x", "y", "radiusX", "radiusY")
SIZE = ("original_height", "original_width")


class LabelStudioFormat(DatasetFormat):
    """Exports as JSON: rectangles, polygons, ellipses and brushes with labels, of the last annotation of each task."""

    name = "LabelStudio"
    tasks = ("detection", "instance_segmentation")
    marks = "a .json of Label Studio with data, annotations and result"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Collect the files of a folder by their keys."""
        files = json_files(tree, "[", "data", "annotations", "result")
        return label_source(self, tree, files)

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        """Read the files of a split."""
        reader = TableReader(source.tree, issues, self.orientation)
        return read_label_studio(reader, source.splits[split]).with_masks(masks, {}, issues)


def read_label_studio(reader: TableReader, files: list[str]) -> DetectionAnnotations:
    """Read files, paths relative to the root of the reader's tree; images are found by the ends of their addresses.

    Predictions, cancelled and further annotations, and tasks without an annotation are left out and counted, as are
    results that outline nothing. The classes are the sorted labels. Raises DataError, naming file, task and result.
    """
    for name in files:
        for number, task in enumerate(reader.parse(name, _tasks) or [], start=1):
            place = f"task {task.get('id', number)!r}"
            with reader.located(name, place):
                results = _last_results(reader, name, task)
                if results is None:
                    continue
                image = reader.image(name, _title(reader.tree, name, task), _stated_size(results))
                if image is not None:
                    _add_objects(reader, name, place, image, results)
    return reader.table()


def _tasks(file: Path) -> list[dict[str, Any]]:
    """Read the tasks. Raises DataError."""
    content = read_json(file)
    tasks: list[Any] = content if isinstance(content, list) else [None]
    if not all(isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks):
        raise DataError(f"{file}: not an export of Label Studio as JSON: not all tasks have data")
    return tasks


def _last_results(reader: TableReader, name: str, task: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the results of the last annotation that was not cancelled; None for none. Raises AnnotationError."""
    known = _dicts(task.get("annotations") or task.get("completions") or [], "annotations")
    valid = [one for one in known if not (one.get("was_cancelled") or one.get("skipped"))]
    for what, count in (
        ("predictions", len(task["predictions"]) if isinstance(task.get("predictions"), list) else 0),
        ("cancelled annotations", len(known) - len(valid)),
        ("annotations before the last of their task", len(valid[:-1])),
        ("tasks without an annotation", not valid),
    ):
        reader.leave_out(name, f"{what} are left out", count, "label-unused")
    if not valid:
        return None
    return _dicts(valid[-1].get("result"), "result")


def _dicts(entries: Any, key: str) -> list[dict[str, Any]]:
    """Return the entries of a list in a task. Raises AnnotationError."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise AnnotationError("label-broken", f"has {key} = {str(entries)[:80]}, which is not a list of entries")
    return entries


def _title(tree: Tree, name: str, task: dict[str, Any]) -> str:
    """Path of the image of a task: the end of an address, without the mark of an upload if no image has it."""
    values = [value for value in [*task["data"].values(), task.get("file_upload")] if isinstance(value, str)]
    paths = [_path(value) for value in values]
    path = next((path for path in paths if path.lower().endswith(SUFFIXES)), paths[0] if paths else "")
    folder, _, file = path.rpartition("/")
    bare = f"{folder}/{UPLOAD.sub('', file)}" if folder else UPLOAD.sub("", file)
    return path if tree.images_of(name, path) else bare


def _path(address: str) -> str:
    """Path in an address: /data/upload/1/NAME, /data/local-files/?d=PATH, s3://bucket/PATH or a URL."""
    try:
        parts = urlsplit(address.replace("\\", "/"))
        local = parse_qs(parts.query).get("d")
    except ValueError:
        return ""
    return local[-1] if local and parts.path.startswith("/data/") else unquote(parts.path)


def _stated_size(results: list[dict[str, Any]]) -> tuple[int, int] | None:
    """Height and width of the image of some results, if they state it. Raises AnnotationError."""
    for one in results:
        if one.get(SIZE[0]) is not None and one.get(SIZE[1]) is not None:
            height, width = parse_numbers(map(one.get, SIZE), "original_height and original_width")
            if height < 1 or width < 1:
                raise AnnotationError("label-broken", f"has an image of {width:g}x{height:g}")
            return int(height), int(width)
    return None


def _add_objects(reader: TableReader, name: str, place: str, image: int, results: list[dict[str, Any]]) -> None:
    """Add the objects of an image; results about an object, such as its text, belong to it by their id."""
    used: set[Any] = set()
    others: list[dict[str, Any]] = []
    for number, one in enumerate(results, start=1):
        with reader.located(name, f"{place}: result {number}", image):
            value, kind = one.get("value"), str(one.get("type"))
            value = value if isinstance(value, dict) else {}
            labelled = kind.endswith("labels") and kind in value
            outline = _outline(value, reader.builder.sizes[image]) if labelled else None
            if outline is None or one.get("image_rotation"):
                others.append(one)
                continue
            used.add(str(one.get("id")))
            reader.leave_out(name, ROTATED, bool(value.get("rotation")) and "radiusX" not in value)
            for label in _names(value[kind]):
                reader.builder.add(image, label, *outline)
    for one in others:
        if one.get("image_rotation"):
            reader.leave_out(name, "results on images that were rotated in Label Studio are left out")
        elif str(one.get("id")) not in used:
            kind = "shape-unsupported" if str(one.get("type")).endswith("labels") else "label-unused"
            reader.leave_out(name, f"results of the type {one.get('type')} are left out", kind=kind)


def _names(labels: Any) -> Iterator[str]:
    """Yield the labels of a result. Raises AnnotationError."""
    if not isinstance(labels, list) or not labels:
        raise AnnotationError("label-broken", "has no label")
    for label in labels:
        if not isinstance(label, str) or not label.strip():
            raise AnnotationError("label-broken", f"has the label {label!r}")
        yield label.strip()


def _outline(value: dict[str, Any], size: tuple[int, int]) -> Outline | None:
    """Parse a shape in per cent of the ``size`` of an image; None if it is not an object. Raises AnnotationError."""
    height, width = size
    across, down = width / 100, height / 100
    if "rle" in value:
        return pixel_mask(decode_brush(value["rle"], size), 0, 0, size)
    if "points" in value and value.get("closed", True):
        pairs = value["points"]
        if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise AnnotationError("label-broken", "has points that are no pairs")
        xs, ys = (parse_numbers((pair[axis] for pair in pairs), "points") for axis in (0, 1))
        return polygon([x * across for x in xs], [y * down for y in ys])
    (degrees,) = parse_numbers([value.get("rotation") or 0], "a rotation")
    if "radiusX" in value:
        x, y, rx, ry = parse_numbers(map(value.get, ELLIPSE), "centre and radii")
        return ellipse((x * across, y * down), (rx * across, ry * down), degrees)
    if "height" in value:
        x, y, w, h = parse_numbers(map(value.get, RECTANGLE), "x, y, width and height")
        box = (x * across, y * down, (x + w) * across, (y + h) * down)
        return rotated_box(box, degrees, box[:2]), math.nan, None
    return None


def decode_brush(data: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode the RLE of a brush (h, w): that of an RGBA image, whose opaque pixels are inside.

    A stream of bits holds the count of values, the bits of a value, four widths of counts, then runs of one value or of
    different ones (thi.ng/rle-pack, which Label Studio uses). Raises AnnotationError.
    """
    height, width = size
    try:
        bits = "".join(f"{byte:08b}" for byte in bytes(data))
        position = 0

        def take(count: int) -> int:
            nonlocal position
            position += count
            return int(bits[position - count : position], 2)

        total, word = take(32), take(5) + 1
        widths = [take(4) + 1 for _ in range(4)]
        if total != 4 * height * width:
            message = f"has a brush of {total} values, but its image of {width}x{height} has {4 * height * width}"
            raise AnnotationError("label-broken", message)
        opaque = np.zeros(total, dtype=bool)
        place = 0
        while place < total:
            repeated = take(1)
            end = place + 1 + take(widths[take(2)])
            opaque[place:end] = take(word) if repeated else [take(word) > 0 for _ in range(place, min(end, total))]
            place = end
    except (TypeError, ValueError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError("label-broken", "has a brush whose RLE is broken") from None
    inside: NDArray[np.bool_] = opaque.reshape(height, width, 4)[:, :, 3]
    return inside
