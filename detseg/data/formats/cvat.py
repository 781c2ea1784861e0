"""CVAT's own XML 1.1: shapes by image, or tracks of a video by frame."""

from __future__ import annotations

import math
import re
import sys
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.images import Orientation
from detseg.data.annotations.issues import FAIL_FAST, AnnotationError, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.base import DatasetFormat, DatasetSource, label_source
from detseg.data.formats.layout import Tree, in_label_place, parse_xml, read_start
from detseg.data.formats.reading import ROTATED, TableReader
from detseg.data.formats.shapes import Outline, ellipse, parse_numbers, pixel_mask, polygon, rotated_box

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

ROOT = re.compile(rb"<annotations>\s*<version>1\.")
SUBSETS = re.compile(rb"<subsets>([^<]*)</subsets>")
FRAME = re.compile(r"frame_(\d{6,9})\.\w+$")
HEAD = 1 << 20  # bytes that hold the description of a task, or of a project of many
NOT_OBJECTS = ("tag", "points", "polyline", "cuboid", "skeleton")  # types of labels that no shape below can have
BOX, ELLIPSE = ("xtl", "ytl", "xbr", "ybr"), ("cx", "cy", "rx", "ry")
IN_EVERY_FRAME = "export the task as 'CVAT for images' instead, which has them in every frame"
INTERPOLATED = ("box", "ellipse")
SIDES = ("height", "width")

Shape = tuple[str, Mapping[str, Any]]  # tag and attributes of an element
Part = tuple[str, str | None]  # a file, and the subset of a project in it


class CvatFormat(DatasetFormat):
    """XML files with boxes, polygons, masks and ellipses, by image ("CVAT for images") or in tracks ("for video")."""

    name = "CVAT"
    tasks = ("detection", "instance_segmentation")
    marks = "an .xml of CVAT with <annotations>"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Collect the files by their root element; the subsets of a project and the names of files are splits."""
        labels = [file for file in tree.ending(".xml") if ROOT.search(read_start(tree.root / file))]
        parts: dict[str, Part] = {}
        for file in sorted({*labels, *in_label_place(tree.ending(".xml"), labels)}):
            match = SUBSETS.search(read_start(tree.root / file, HEAD))
            subsets = match[1].decode(errors="replace").split("\n") if match else []
            parts |= {f"{file}/{name.strip()}": (file, name.strip()) for name in subsets} or {file: (file, None)}
        return [
            replace(source, splits={split: [parts[name] for name in names] for split, names in source.splits.items()})
            for source in label_source(self, tree, list(parts))
        ]

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        """Read the files or subsets of a split."""
        reader = _Reader(source.tree, issues, self.orientation)
        return read_cvat(reader, source.splits[split]).with_masks(masks, {}, issues)


def read_cvat(reader: _Reader, parts: list[Part]) -> DetectionAnnotations:
    """Read files, paths relative to the root of the reader's tree, or one subset of each.

    Polylines, points, cuboids, skeletons and tags are left out and counted; a rotated box becomes the box around it.
    Frames of a video are images named like CVAT's, such as frame_000012.png; shapes between key frames are interpolated
    as CVAT does it. The classes are the labels that an object can have, in their order. Raises DataError, naming file,
    image and shape.
    """
    for name, subset in parts:
        content = reader.parse(name, partial(parse_xml, root="annotations"))
        if content is not None:
            reader.read(name, subset, content)
    names = dict.fromkeys([*reader.labels, *sorted(set(reader.builder.names))])
    return reader.table({name: number for number, name in enumerate(names, start=1)})


class _Reader(TableReader):
    """Reads files of CVAT, of which the labels are the classes."""

    def __init__(self, tree: Tree, issues: IssueCollector, orientation: Orientation) -> None:
        super().__init__(tree, issues, orientation)
        self.labels: list[str] = []

    def read(self, name: str, subset: str | None, content: Element) -> None:
        """Add the images and the frames of a file."""
        for label in content.iterfind("meta//label"):
            if (title := (label.findtext("name") or "").strip()) and label.findtext("type") not in NOT_OBJECTS:
                self.labels.append(title)
        for element in content.iterfind("image"):
            if subset in (None, element.get("subset")):
                self._image(name, element)
        tracks: dict[str | None, list[Element]] = defaultdict(list)
        for element in content.iterfind("track"):
            if subset in (None, element.get("subset")):
                tracks[element.get("task_id")].append(element)
        tasks = {task.findtext("id"): task for task in content.iterfind("meta//task")}
        for number, of_task in tracks.items():
            task = tasks.get(number) if number else next(iter(tasks.values()), content.find("meta/job"))
            folder = PurePosixPath(name).parent / "images" / (subset or "")
            self._video(name, folder, task, of_task)

    def _image(self, name: str, element: Element) -> None:
        """Add an image and its shapes."""
        title, subset = (element.get("name") or "").replace("\\", "/"), element.get("subset")
        image = self.image(name, f"{subset}/{title}" if subset else title, _size(*map(element.get, SIDES)))
        if image is not None:
            for number, shape in enumerate(element, start=1):
                place = f"image {title!r}: shape {number}"
                self._add(name, place, image, shape.get("label"), (shape.tag, shape.attrib))

    def _video(self, name: str, folder: PurePosixPath, task: Element | None, tracks: list[Element]) -> None:
        """Add the frames of a video that are there as images, and the shapes of its tracks."""
        frames = self._frames(task)
        shapes: dict[int, list[tuple[str | None, Shape]]] = {frame: [] for frame in frames}
        for track in tracks:
            with self.located(name, f"track {track.get('id')!r}"):
                for frame, shape in self._expand(track, frames, name):
                    shapes.setdefault(frame, []).append((track.get("label"), shape))
        images = {frame: self.tree.image_of(str(folder / f"frame_{frame:06d}.png")) for frame in sorted(shapes)}
        missing = [frame for frame, image in images.items() if image is None]
        if missing and len(missing) == len(images):
            file = self.tree.root / name
            message = (
                f"{file}: no image of its frames, such as frame_{missing[0]:06d}.png, anywhere below {self.tree.root}; "
                "export it as 'CVAT for video' with images, or a task of images as 'CVAT for images'"
            )
            self.issues.report("image-missing", file, message)
        self.leave_out(name, "frames of a video have no image, and are left out", len(missing))
        size = _size(*(None if task is None else task.findtext(f"original_size/{side}") for side in SIDES))
        for frame, image in images.items():
            if image is not None:
                index = self.builder.image(image, size)
                for label, shape in shapes[frame]:
                    self._add(name, f"frame {frame}: shape", index, label, shape)

    def _frames(self, task: Element | None) -> list[int]:
        """List the frames that are there as images, of those of a task if it states them."""
        frames = sorted({int(match[1]) for image in self.tree.images if (match := FRAME.search(image))})
        step = re.search(r"step=(\d{1,9})", "" if task is None else task.findtext("frame_filter") or "")
        try:
            assert task is not None
            start, stop = (int(task.findtext(f"{end}_frame") or "") for end in ("start", "stop"))
        except (AssertionError, ValueError):
            return frames
        stated = range(start, stop + 1, max(int(step[1]), 1) if step else 1)
        return [frame for frame in frames if frame in stated]

    def _expand(self, track: Element, frames: list[int], name: str) -> Iterator[tuple[int, Shape]]:
        """Yield the visible shapes of a track by frame, with those between key frames. Raises AnnotationError.

        As in CVAT, a shape stays until the next one, or until the last of the ``frames`` if there is none.
        """
        keys: list[tuple[int, Shape]] = sorted(
            ((_frame(element), (element.tag, element.attrib)) for element in track), key=lambda key: key[0]
        )
        for (frame, first), (end, second) in pairwise([*keys, *((sys.maxsize, key[1]) for key in keys[-1:])]):
            if first[1].get("outside") == "1":
                continue
            yield frame, first
            for between in frames[bisect_right(frames, frame) : bisect_left(frames, end)]:
                if first[0] == second[0] and first[0] in INTERPOLATED:
                    yield between, (first[0], _interpolate(first[1], second[1], (between - frame) / (end - frame)))
                elif first[0] == "mask":
                    break  # CVAT shows a mask in its own frame alone
                elif first[0] != "polygon" or first[1].get("points") == second[1].get("points"):
                    yield between, first
                else:
                    self.leave_out(name, f"polygons between two key frames are left out; {IN_EVERY_FRAME}")

    def _add(self, name: str, place: str, image: int, label: str | None, shape: Shape) -> None:
        """Add the object of a shape, or count the shape if it is none."""
        tag, attributes = shape
        with self.located(name, f"{place} ({tag})", image):
            outline = _outline(tag, attributes, self.builder.sizes[image])
            if outline is None:
                kind = "label-unused" if tag == "tag" else "shape-unsupported"
                self.leave_out(name, f"shapes of the type {tag} are left out", kind=kind)
                return
            if not label or not label.strip():
                raise AnnotationError("label-broken", "has no label")
            self.leave_out(name, ROTATED, tag == "box" and _rotation(attributes) % 360 != 0)
            self.builder.add(image, label.strip(), *outline)


def _outline(tag: str, attributes: Mapping[str, Any], size: tuple[int, int]) -> Outline | None:
    """Parse a shape; None if it is not an object. Raises AnnotationError."""
    if tag == "box":
        a, b, c, d = parse_numbers(map(attributes.get, BOX), "corners")
        return rotated_box((a, b, c, d), _rotation(attributes), ((a + c) / 2, (b + d) / 2)), math.nan, None
    if tag == "ellipse":
        x, y, rx, ry = parse_numbers(map(attributes.get, ELLIPSE), "centre and radii")
        return ellipse((x, y), (rx, ry), _rotation(attributes))
    if tag == "polygon":
        pairs = [pair.split(",") for pair in str(attributes.get("points")).split(";")]
        return polygon([pair[0] for pair in pairs], [pair[-1] for pair in pairs])
    return _mask(attributes, size) if tag == "mask" else None


def _rotation(attributes: Mapping[str, Any]) -> float:
    """Parse the degrees of a rotation. Raises AnnotationError."""
    return parse_numbers([attributes.get("rotation", 0)], "a rotation")[0]


def _mask(attributes: Mapping[str, Any], size: tuple[int, int]) -> Outline:
    """Box, area and RLE of a mask: runs outside and inside in turn, row by row. Raises AnnotationError."""
    try:
        left, top, width, height = (int(attributes[key]) for key in ("left", "top", "width", "height"))
        counts = [int(count) for count in attributes["rle"].split(",")]
    except (KeyError, ValueError):
        raise AnnotationError("label-broken", "lacks whole numbers as rle, left, top, width and height") from None
    if min(counts) < 0 or not 0 < sum(counts) == width * height <= math.prod(size):
        message = f"has runs of {sum(counts)} pixels for a mask of {width}x{height}"
        raise AnnotationError("label-broken", message)
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
    return pixel_mask(inside, left, top, size)


def _interpolate(first: Mapping[str, Any], second: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Interpolate the attributes of a box or an ellipse; a rotation takes the shorter way. Raises AnnotationError."""
    keys = BOX if "xtl" in first else ELLIPSE
    start, end = (parse_numbers(map(shape.get, keys), "coordinates") for shape in (first, second))
    angle = _rotation(first)
    turn = (_rotation(second) - angle + 180) % 360 - 180
    moved = dict(zip(keys, (a + (b - a) * share for a, b in zip(start, end, strict=True)), strict=True))
    return moved | {"rotation": angle + turn * share}


def _frame(element: Element) -> int:
    """Frame of a shape of a track. Raises AnnotationError."""
    text = element.get("frame") or ""
    if not re.fullmatch("[0-9]{1,9}", text):
        raise AnnotationError("label-broken", f"has a shape with frame = {text!r}")
    return int(text)


def _size(height: str | None, width: str | None) -> tuple[int, int] | None:
    """Height and width as stated; None if they are missing."""
    sides = [int(side) if side and re.fullmatch("[0-9]{1,6}", side) else 0 for side in (height, width)]
    return (sides[0], sides[1]) if all(sides) else None
