"""Projects and exports of the VGG Image Annotator (Dutta and Zisserman 2019), versions 1 to 3, in JSON."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import FAIL_FAST, AnnotationError, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.base import DatasetFormat, DatasetSource, label_source
from detseg.data.formats.layout import Tree, read_json
from detseg.data.formats.reading import TableReader, json_files
from detseg.data.formats.shapes import Outline, ellipse, parse_numbers, polygon
from detseg.errors import DataError

log = logging.getLogger(__name__)

UNNAMED = "object"  # class of a data set whose regions have no attributes
SHAPES_3 = dict(enumerate(("point", "rect", "circle", "ellipse", "line", "polyline", "polygon"), start=1))
KEYS_3: dict[str, tuple[str, ...]] = {
    "rect": ("x", "y", "width", "height"),
    "circle": ("cx", "cy", "r"),
    "ellipse": ("cx", "cy", "rx", "ry"),
}

Region = tuple[Mapping[str, Any], Mapping[str, Any]]  # shape, and attributes by name


class ViaFormat(DatasetFormat):
    """Projects, and exports of annotations, in JSON.

    The class of a region is its only attribute, or the one called ``attribute``; without any, it is "object".
    """

    name = "VIA"
    tasks = ("detection", "instance_segmentation")
    marks = "a .json of VIA with regions"

    def __init__(self, attribute: str | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.attribute = attribute

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Collect the files of a folder by their keys."""
        files = json_files(tree, "{", "filename", "regions", "file_attributes")
        files += json_files(tree, "{", "vid_list", "metadata", "view", "attribute")
        return label_source(self, tree, [*dict.fromkeys(files)])

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        """Read the files of a split."""
        table = read_via(TableReader(source.tree, issues, self.orientation), source.splits[split], self.attribute)
        return table.with_masks(masks, {}, issues)


def read_via(reader: TableReader, files: list[str], attribute: str | None = None) -> DetectionAnnotations:
    """Read files, paths relative to the root of the reader's tree; points and lines are left out and counted.

    The classes are the sorted values of the attribute. Raises DataError for several attributes if none is chosen, and
    for broken regions, naming file, image and region.
    """
    root = reader.tree.root
    images = [(name, *image) for name in files for image in reader.parse(name, _images) or []]
    names = {key for *_, regions in images for _, attributes in regions for key in attributes}
    if attribute is None and len(names) > 1:
        raise DataError(
            f"{root / files[0]}: its regions have the attributes {', '.join(sorted(names))}; choose the one that "
            "names the class with `format='ViaFormat'` and `format.attribute='NAME'`"
        )
    if attribute is None and not names:
        log.warning("%s: its regions have no attribute, and are of the class %r", root, UNNAMED)
    chosen = attribute or next(iter(names), None)
    for name, title, regions in images:
        image = reader.image(name, title)
        if image is None:
            continue
        for number, (shape, attributes) in enumerate(regions, start=1):
            with reader.located(name, f"image {title!r}: region {number}", image):
                outline = _outline(shape)
                if outline is None:
                    reader.leave_out(name, f"regions of the shape {shape.get('name')} are left out")
                else:
                    reader.builder.add(image, _class_of(attributes, chosen), *outline)
    return reader.table()


def _images(file: Path) -> list[tuple[str, list[Region]]]:
    """Parse the file names of the images and their regions. Raises DataError."""
    content = read_json(file)
    try:
        return [*(_of_version_3(content) if "vid_list" in content.get("project", {}) else _of_version_1(content))]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: not a project or export of VIA: {type(error).__name__} {error}") from None


def _of_version_1(content: Any) -> Iterator[tuple[str, list[Region]]]:
    """Yield the images of versions 1 and 2, whose regions are a dictionary or a list."""
    for entry in content.get("_via_img_metadata", content).values():
        regions = entry["regions"]
        shapes = regions.values() if isinstance(regions, dict) else regions
        yield _name(entry["filename"]), [(dict(one["shape_attributes"]), _given(one)) for one in shapes]


def _given(region: Any) -> dict[str, Any]:
    """Attributes of a region that have a value; the only chosen option of several is the value."""
    values = {}
    for name, value in dict(region["region_attributes"]).items():
        if isinstance(value, dict):
            options = [option for option, chosen in value.items() if chosen]
            value = options[0] if len(options) == 1 else options
        if value not in ("", None, []):
            values[name] = value
    return values


def _of_version_3(content: Any) -> Iterator[tuple[str, list[Region]]]:
    """Yield the images of version 3, whose regions are numbers behind the number of a shape."""
    attributes = content["attribute"]
    regions: dict[str, list[Region]] = {str(view): [] for view in content["view"]}
    for entry in content["metadata"].values():
        if not entry["xy"]:
            continue  # of a whole file
        number, *numbers = entry["xy"]
        kind = "video frame" if entry["z"] else SHAPES_3.get(number, f"number {number}")
        shape = {"name": kind, "all_points_x": numbers[::2], "all_points_y": numbers[1::2]}
        values = {}
        for key, value in entry["av"].items():
            options = attributes[key].get("options") or {}
            values[attributes[key]["aname"]] = options.get(value, value) if options else value
        shape |= dict(zip(KEYS_3.get(kind, ()), numbers, strict=False))
        regions[str(entry["vid"])].append((shape, {name: value for name, value in values.items() if value}))
    for view, shapes in regions.items():
        (file,) = content["view"][view]["fid_list"]
        entry = content["file"][str(file)]
        yield _name(entry["fname"] or entry["src"]), shapes


def _name(title: Any) -> str:
    """File name of an image, which may be an address."""
    return str(title).partition("?")[0].replace("\\", "/")


def _class_of(attributes: Mapping[str, Any], attribute: str | None) -> str:
    """Return the class of a region. Raises AnnotationError if it has none."""
    if attribute is None:
        return UNNAMED
    value = attributes.get(attribute)
    if not isinstance(value, str | int) or not str(value).strip():
        raise AnnotationError("label-broken", f"has {attribute} = {value!r}")
    return str(value).strip()


def _outline(shape: Mapping[str, Any]) -> Outline | None:
    """Parse a shape; None if it is not an object. Raises AnnotationError."""
    kind = shape.get("name")
    if kind == "rect":
        x, y, width, height = parse_numbers(map(shape.get, KEYS_3["rect"]), "x, y, width and height")
        return (x, y, x + width, y + height), math.nan, None
    if kind in ("circle", "ellipse"):
        x, y, *radii = parse_numbers(map(shape.get, KEYS_3[kind]), "centre and radius")
        (theta,) = parse_numbers([shape.get("theta", 0)], "theta")  # in radians
        return ellipse((x, y), (radii[0], radii[-1]), math.degrees(theta))
    if kind == "polygon":
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        return polygon(xs if isinstance(xs, list) else [xs], ys if isinstance(ys, list) else [ys])
    return None
