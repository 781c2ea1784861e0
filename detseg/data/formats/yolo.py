"""YOLO labels: a text file for each image, a line for each object: its class, and a box or a polygon."""

from __future__ import annotations

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from detseg.data.annotations.builder import Box, Builder, polygon_area, polygon_box
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.images import Orientation
from detseg.data.annotations.issues import FAIL_FAST, AnnotationError, Issue, IssueCollector, shifted
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.base import WHOLE, ConversionReport, DatasetFormat, DatasetSource
from detseg.data.formats.layout import Tree, by_split, read_head, read_text, unused_label, unused_split
from detseg.data.formats.yolo_settings import SETTINGS, read_keypoint_count, read_names, read_settings
from detseg.data.formats.yolo_writer import write_yolo
from detseg.errors import DataError

DIGITS = 9  # decimals of a pixel: more are the noise of the division, which could move an outline by a pixel
LISTS = ("classes.txt", "train.txt", "val.txt", "test.txt")  # other files that may lie beside the labels
TRIES = 100  # files of a folder to search for labels
MAX_FRACTION = 1.5  # numbers above are no fractions of an image
MIN_POSE = 3  # lines of a box with key points that are no chance

Pairs = Mapping[str, str | None]  # label file, or None, by image


class YoloFormat(DatasetFormat):
    """A .txt file for each image, in folders whose name starts with ``label`` or beside the images, and data.yaml.

    ``labels`` chooses one of several folders of labels; ``names`` is the file, relative to the folder, that names the
    classes, by default any such file. Images without a file of labels are background, if other images of their folder
    have one.
    """

    name = "YOLO"
    tasks = ("detection", "instance_segmentation")
    marks = "a .txt for each image, and data.yaml"

    def __init__(self, labels: str | None = None, names: str | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.labels, self.names = labels, names

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """List the sets of labels: one for each name of a folder that starts with ``label``, one for all the others."""
        sources = []
        for name, files in _label_sets(tree).items():
            if self.labels and name != self.labels:
                continue
            issues: list[Issue] = []
            pairs, ambiguous = _pairs(tree, files, issues)
            if not pairs:
                continue
            folders = set(map(_parent, pairs))
            images = [image for image in tree.images if _parent(image) in folders and image not in ambiguous]
            others = [image for image in tree.images if image not in ambiguous]
            splits = by_split(images)
            splits = _declared_splits(tree, others, self.names, splits, issues) or splits
            parts = {split: {image: pairs.get(image) for image in part} for split, part in splits.items()}
            used = set().union(*splits.values())
            issues += [unused_label(tree, file) for image, file in pairs.items() if image not in used]
            location = tree.root / (name or os.path.commonpath([f"/{_parent(file)}" for file in pairs.values()])[1:])
            issues += unused_split(tree, pairs) if WHOLE in splits else []
            sources.append(DatasetSource(self, tree, location, parts, has_category_ids=True, issues=issues))
        return _without_strays(tree, sources) if sources else self._near_misses(tree)

    def _near_misses(self, tree: Tree) -> list[DatasetSource]:
        """Describe the first file named like an image whose first line is nearly one of labels."""
        for file in tree.ending(".txt"):
            line = read_head(tree.root / file).strip().partition("\n")[0].strip()
            numbers = [part for part in re.split(r"[\s,;]+", line) if _is_number(part)]
            if len(numbers) >= 4 and tree.images_of(file):
                problem = f"{file}: begins with {line[:80]!r}, but YOLO has the number of a class, then x, y, width"
                return [DatasetSource(self, tree, tree.root, {}, problem=f"{problem} and height, parted by blanks")]
        return []

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        """Read the label files of a split."""
        table = read_yolo(source.tree.root, source.splits[split], self.names, issues, self.orientation)
        return table.with_masks(masks, {}, issues)

    def write(
        self, splits: Mapping[str, DetectionAnnotations], out: Path, place: Callable[[Path, Path], None]
    ) -> ConversionReport:
        """Write images, labels and data.yaml; objects with masks become polygons."""
        return write_yolo(splits, out, place)


def _without_strays(tree: Tree, sources: list[DatasetSource]) -> list[DatasetSource]:
    """Report a few label files outside of the only folder of labels as unused, where they are of its images."""
    labels = [{image: file for part in one.splits.values() for image, file in part.items() if file} for one in sources]
    if (len(sources) == 2 and labels[0].keys() & labels[1].keys()) or len(sources) != 2:
        return sources
    few, many = sorted((0, 1), key=lambda index: len(labels[index]))
    folders = {_parent(image) for image in labels[many]}
    if 2 * len(labels[few]) >= len(labels[many]) or not folders.issuperset(map(_parent, labels[few])):
        return sources
    strays = [unused_label(tree, file, f"is outside of {sources[many].location}") for file in labels[few].values()]
    return [replace(sources[many], issues=[*sources[many].issues, *strays])]


def _parent(file: str) -> str:
    return file.rpartition("/")[0]


def _label_sets(tree: Tree) -> dict[str, list[str]]:
    """Group label files by their folder whose name starts with ``label``: all of a folder that holds labels.

    Of the other folders of a set, and of those whose files are all empty, files with an image are labels as well.
    """
    sets: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for file in tree.ending(".txt"):
        folder, _, name = file.rpartition("/")
        if name not in LISTS or (tree.image_of(file) and _holds_labels(tree.root / file) is not False):
            named = [part for part in folder.split("/") if part.lower().startswith("label")]
            sets[named[0] if named else ""][folder].append(file)
    labels = {}
    for name, folders in sets.items():
        holding = {folder for folder, files in folders.items() if _any_labels(tree, files)}
        if holding:
            labels[name] = [
                file for folder, files in folders.items() for file in files if folder in holding or tree.images_of(file)
            ]
    return labels


def _any_labels(tree: Tree, files: list[str]) -> bool:
    """Tell if one of the first files that are not empty holds labels."""
    results = (_holds_labels(tree.root / file) for file in files)
    return any(islice((result for result in results if result is not None), TRIES))


def _holds_labels(file: Path) -> bool | None:
    """Tell if a file begins with a line of five numbers or more; None for an empty file."""
    lines = [line.split() for line in read_head(file).splitlines() if line.strip()]
    return any(len(line) > 4 and all(map(_is_number, line)) for line in lines) if lines else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _pairs(tree: Tree, files: list[str], issues: list[Issue]) -> tuple[dict[str, str], set[str]]:
    """Map images to their label files; add the files that fit none or several to ``issues``, and return the latter."""
    pairs: dict[str, str] = {}
    ambiguous: set[str] = set()
    for file in files:
        images = tree.images_of(file)
        if len(images) != 1:
            ambiguous.update(images)
            issues.append(tree.describe_images(tree.root / file, images))
        elif images[0] in pairs:
            issues.append(unused_label(tree, file, f"{pairs[images[0]]} labels {images[0]} already"))
        else:
            pairs[images[0]] = file
    return pairs, ambiguous


def _declared_splits(
    tree: Tree, images: list[str], names: str | None, by_folder: Collection[str], issues: list[Issue]
) -> dict[str, list[str]] | None:
    """Return the split that data.yaml or obj.data declares by folders or lists of images; None if none is here.

    Paths may be those of another machine, or lead out of the folder: their end, below the folder, counts. A declared
    split without an image, which no folder is named like either, is reported.
    """
    for file in [names] if names else sorted(tree.ending(*SETTINGS), key=lambda file: file.count("/")):
        if not file.endswith(SETTINGS):
            continue
        content = read_settings(tree.root / file)
        declared = {split: content.get(split) for split in ("train", "val", "test")}
        declared["val"] = declared["val"] or content.get("valid")
        listed = {split: _images_at(tree, images, place, issues) for split, place in declared.items() if place}
        for split in ("train", "val"):
            if listed.get(split) == [] and split not in by_folder:
                message = f"{tree.root / file}: no image lies where {split} is, {declared[split]}"
                issues.append(Issue("split-conflict", str(tree.root / file), f"{message}; its splits are not used"))
        parts = {split: part for split, part in listed.items() if part}
        if "train" not in parts or len(parts) < 2:
            continue
        if len(set().union(*parts.values())) == sum(map(len, parts.values())):
            return parts
        if len({str(declared[split]) for split in parts}) > 1:
            shared = next(image for image in parts["train"] if sum(image in part for part in parts.values()) > 1)
            message = f"{tree.root / file}: {shared} is in more than one split; the splits of this file are not used"
            issues.append(Issue("split-conflict", str(tree.root / file), message))
    return None


def _images_at(tree: Tree, images: list[str], places: Any, issues: list[Issue]) -> list[str]:
    """Select the images that lie in a folder or a list, or in one of several; report lines of a list without one."""
    selected: list[str] = []
    for place in places if isinstance(places, list) else [places]:
        parts = [part for part in str(place).replace("\\", "/").split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            if end in tree.files and end.endswith(".txt"):
                lines = [line.strip() for line in read_text(tree.root / end).split("\n") if line.strip()]
                named = {line: tree.images_of(end, line.replace("\\", "/")) for line in lines}
                if missing := [line for line, files in named.items() if not files]:
                    message = f"{tree.root / end}: {len(missing)} of {len(lines)} lines name no image below {tree.root}"
                    issues.append(Issue("image-missing", str(tree.root / end), f"{message}, such as {missing[0]}"))
                wanted = {files[0] for files in named.values() if len(files) == 1}
                selected += [image for image in images if image in wanted]
                break
            if inside := [image for image in images if image.startswith(f"{end}/")]:
                selected += inside
                break
    return list(dict.fromkeys(selected))


def read_yolo(
    root: Path,
    pairs: Pairs,
    names: str | None = None,
    issues: IssueCollector = FAIL_FAST,
    orientation: Orientation = "shown",
) -> DetectionAnnotations:
    """Read the label files of images, paths relative to ``root``.

    The classes are those of data.yaml, classes.txt or a file such as obj.names, numbered from 0. Raises DataError,
    naming file and line, for broken labels.
    """
    lines = _Lines(read_names(root, names), read_keypoint_count(root))
    builder = Builder(root, root, issues, orientation)
    for image, label in pairs.items():
        index = builder.image(image)
        if not label:
            issues.report("label-missing", root / image, f"{root / image}: it has no file of labels")
            continue
        file = root / label
        try:
            text = read_text(file)
        except DataError as error:
            issues.report("label-broken", file, str(error), image=root / image)
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                builder.add(index, *lines.parse(line, builder.sizes[index]))
            except AnnotationError as error:
                issues.report(error.kind, file, f"{file}: line {number} {error}", number, image=root / image)
    lines.report(root, issues)
    return builder.annotations({name: number for number, name in lines.names.items()})


class _Lines:
    """Parses lines, and remembers the class numbers and key points in them."""

    def __init__(self, names: dict[int, str], keypoints: int | None) -> None:
        self.names, self.keypoints = names, keypoints
        self.used: set[int] = set()
        self.posed = 0  # lines with key points
        self.lengths: Counter[int] = Counter()  # lines that may be polygons, by their count of numbers
        self.pose_like = 0  # of these, lines that may be a box with key points

    def parse(self, line: str, size: tuple[int, int]) -> tuple[str, Box, float, list[tuple[float, float]] | None]:
        """Name, box in pixels, area and polygon of one line. Raises AnnotationError."""
        first, *rest = line.split()
        number = self._class(first)
        try:
            values = [float(value) for value in rest]
        except ValueError:
            raise AnnotationError("box-nan", f"has values that are not numbers: {line.strip()[:80]!r}") from None
        if not all(map(math.isfinite, values)):
            raise AnnotationError("box-nan", f"has a non-finite value: {line.strip()[:80]!r}")
        if self.keypoints and len(values) == 4 + self.keypoints:
            self.posed += 1
            values = values[:4]
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            message = f"has {len(values)} numbers after the class; a box has 4, a polygon 3 or more pairs"
            hint = "; is it a box and a score?" if len(values) == 5 else ""
            hint = "; with key points, data.yaml must have their kpt_shape" if len(values) > 6 else hint
            raise AnnotationError("label-broken", message + hint)
        if sum(value > MAX_FRACTION for value in values) > len(values) / 2:
            raise AnnotationError(
                "box-pixels",
                f"has numbers above 1: YOLO's are fractions of the image, not pixels: {line.strip()[:80]!r}",
            )
        height, width = size
        if len(values) == 4:
            x, y, w, h = values
            corners = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
            x1, y1, x2, y2 = (round(corner, DIGITS) for corner in corners)
            return self.names[number], (x1, y1, x2, y2), math.nan, None
        self.lengths[len(values)] += 1
        self.pose_like += _is_pose(values)
        points = [
            (round(x * width, DIGITS), round(y * height, DIGITS))
            for x, y in zip(values[::2], values[1::2], strict=True)
        ]
        return self.names[number], polygon_box(points), polygon_area(points), points

    def _class(self, text: str) -> int:
        """Parse the number of a class, which numpy writes as 0.0. Raises AnnotationError."""
        number = float(text) if text.isascii() and _is_number(text) else math.nan
        if not (number.is_integer() and 0 <= number < 1e9):
            raise AnnotationError("label-broken", f"begins with {text[:80]!r}, not with the number of a class")
        self.used.add(int(number))
        if int(number) not in self.names:
            known = f"they go from {min(self.names)} to {max(self.names)}"
            raise AnnotationError("category-unknown", f"has class {text}, and no class has this number; {known}")
        return int(number)

    def report(self, root: Path, issues: IssueCollector) -> None:
        """Report issues of all lines together."""
        if shift := shifted(self.used, self.names):
            issues.report("off-by-one", root, f"{root}: {shift}")
        if self.posed:
            issues.report("label-unused", root, f"{root}: the key points of {self.posed} objects are not read")
        if self.keypoints is None and len(self.lengths) == 1 and MIN_POSE <= self.pose_like == self.lengths.total():
            count = next(iter(self.lengths))
            message = (
                f"{root}: all {self.pose_like} lines of {count} numbers look like boxes with {(count - 4) / 2:g} key "
                "points: each box holds its points. If so, write kpt_shape in data.yaml, such as "
                f"`kpt_shape: [{(count - 4) // 2}, 2]`; if they are polygons, `kpt_shape: []`"
            )
            issues.report("label-broken", root, message)


def _is_pose(values: list[float]) -> bool:
    """Tell if numbers may be a box and key points inside it."""
    x, y, w, h, *points = values
    inside = (abs(px - x) <= w / 2 and abs(py - y) <= h / 2 for px, py in zip(points[::2], points[1::2], strict=True))
    return len(values) > 8 and all(inside)
