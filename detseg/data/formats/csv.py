"""Tables of boxes in CSV: a line for each box, and a header that names the columns."""

from __future__ import annotations

import csv
import io
import math

from detseg.data.annotations.builder import Builder
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.images import Orientation
from detseg.data.annotations.issues import FAIL_FAST, AnnotationError, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.base import DatasetFormat, DatasetSource, label_source
from detseg.data.formats.layout import Tree, read_head, read_text
from detseg.errors import DataError

# Names of the columns in various programs, in lower case.
COLUMNS = {
    "file": ("filename", "file_name", "file", "image", "image_path", "image_name", "img", "path", "filepath"),
    "name": ("class", "label", "name", "class_name", "category", "label_name"),
    "x1": ("xmin", "x_min", "x1", "left", "bbox_xmin"),
    "y1": ("ymin", "y_min", "y1", "top", "bbox_ymin"),
    "x2": ("xmax", "x_max", "x2", "right", "bbox_xmax"),
    "y2": ("ymax", "y_max", "y2", "bottom", "bbox_ymax"),
}
CORNERS = ("x1", "y1", "x2", "y2")
SIDES = {"height": ("height", "image_height", "img_height"), "width": ("width", "image_width", "img_width")}  # optional


class CsvFormat(DatasetFormat):
    """Tables whose header has a file, a class and four corners."""

    name = "CSV"
    tasks = ("detection", "instance_segmentation")
    marks = "a header with filename, class, xmin, ymin, xmax and ymax"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Collect the tables of a folder by their headers."""
        heads = {file: read_head(tree.root / file).split("\n")[0] for file in tree.ending(".csv")}
        missing = {file: _missing(head) for file, head in heads.items()}
        labels = [file for file, columns in missing.items() if not columns]
        if not labels and (file := next(iter(missing), None)):
            return [DatasetSource(self, tree, tree.root, {}, problem=f"{file}: {missing[file]}")]
        return label_source(self, tree, labels, location=tree.root / labels[0] if len(labels) == 1 else None)

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        """Read the tables of a split."""
        return read_csv(source.tree, source.splits[split], issues, self.orientation).with_masks(masks, {}, issues)


def read_csv(
    tree: Tree, files: list[str], issues: IssueCollector = FAIL_FAST, orientation: Orientation = "shown"
) -> DetectionAnnotations:
    """Read tables, paths relative to the root of ``tree``. A line without corners is of an image without objects.

    Images are found by their names anywhere below the root. The classes are the sorted names of the objects. Raises
    DataError, naming file and line.
    """
    builder = Builder(tree.root / files[0] if len(files) == 1 else tree.root, tree.root, issues, orientation)
    images: dict[str, int] = {}
    for name in files:
        file = tree.root / name
        try:
            header, *_ = text = read_text(file).splitlines(keepends=True) or [""]
        except DataError as error:
            issues.report("label-broken", file, str(error))
            continue
        columns = _columns(_split(header))
        if missing := _missing(header):
            issues.report("label-broken", file, f"{file}: {missing}")
            continue
        lines = csv.reader(io.StringIO("".join(text), newline=""), delimiter=_delimiter(header))
        try:
            for values in lines:
                if lines.line_num > 1 and any(map(str.strip, values)):
                    try:
                        _read_line(tree, name, _entry(values, columns, len(_split(header))), builder, images)
                    except AnnotationError as error:
                        message = f"{file}: line {lines.line_num} {error}"
                        issues.report(error.kind, file, message, lines.line_num)
        except csv.Error as error:
            issues.report("label-broken", file, f"{file}: line {lines.line_num} broken CSV: {error}")
    return builder.annotations()


def _entry(values: list[str], columns: dict[str, int], count: int) -> dict[str, str]:
    """Map columns to the values of a line, of which the header has ``count``. Raises AnnotationError."""
    if any(map(str.strip, values[count:])):
        raise AnnotationError("label-broken", f"has {len(values)} values, more than the header")
    if len(values) <= max(columns[column] for column in COLUMNS):
        raise AnnotationError("label-broken", f"has {len(values)} values, fewer than the header")
    return {column: values[position].strip() for column, position in columns.items() if position < len(values)}


def _read_line(tree: Tree, file: str, entry: dict[str, str], builder: Builder, images: dict[str, int]) -> None:
    """Add the image and the box of a line. Raises AnnotationError."""
    name = entry["file"].replace("\\", "/")
    candidates = tree.images_of(file, name) or (tree.images_of(name) if name else [])  # some leave the suffix out
    if not candidates:
        raise AnnotationError("image-missing", f"names {entry['file']!r}, and there is no such image below {tree.root}")
    if len(candidates) > 1:
        raise AnnotationError("image-ambiguous", f"names {entry['file']!r}, which is {' or '.join(candidates)}")
    (image,) = candidates
    if image not in images:
        images[image] = builder.image(image, _size(entry))
    if not any(entry[key] for key in CORNERS):
        return
    try:
        x1, y1, x2, y2 = (float(entry[key]) for key in CORNERS)
    except ValueError:
        x1 = y1 = x2 = y2 = math.nan
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise AnnotationError("box-nan", f"has corners {[entry[key] for key in CORNERS]}, which are no numbers")
    if not entry["name"]:
        raise AnnotationError("label-broken", "has no name of a class")
    builder.add(images[image], entry["name"], (x1, y1, x2, y2))


def _size(entry: dict[str, str]) -> tuple[int, int] | None:
    """Return the height and width of the image as a line states them, None if it does not."""
    sides = [entry.get(side, "") for side in SIDES]
    height, width = (int(float(side)) if side.replace(".", "", 1).isdecimal() else 0 for side in sides)
    return (height, width) if height and width else None


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _split(header: str) -> list[str]:
    return header.strip().split(_delimiter(header))


def _missing(header: str) -> str:
    """Describe the columns that a header lacks; empty if it has all."""
    columns = _columns(_split(header))
    known = "; ".join(f"{column}: {', '.join(names)}" for column, names in COLUMNS.items() if column not in columns)
    return known and f"its header lacks columns (any of these names will do): {known}"


def _columns(header: list[str]) -> dict[str, int]:
    """Find the position of each known column in a header."""
    names = [name.strip().strip('"').lower() for name in header]
    positions = {
        column: [names.index(name) for name in known if name in names] for column, known in (COLUMNS | SIDES).items()
    }
    return {column: places[0] for column, places in positions.items() if places}
