"""YOLO labels: a text file for each image, a line for each object: its class, and a box or a polygon."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from detseg.data.annotations.builder import Box, Builder, polygon_area, polygon_box
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import FAIL_FAST, AnnotationError, IssueCollector, shifted
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.base import ConversionReport, DatasetFormat, DatasetSource
from detseg.data.formats.layout import Tree, by_split, read_text
from detseg.data.formats.yolo_writer import write_yolo
from detseg.errors import DataError

log = logging.getLogger(__name__)

LINE = re.compile(r"\d+(\s+[-+.\deE]+){4,}\s*")
DIGITS = 9  # decimals of a pixel: more are the noise of the division, which could move an outline by a pixel
NAMES = (".yaml", ".yml", ".names")
LISTS = ("classes.txt", "train.txt", "val.txt", "test.txt")  # other files that may lie beside the labels


class YoloFormat(DatasetFormat):
    """A .txt file for each image, in folders whose name starts with ``label`` or beside the images, and data.yaml.

    ``labels`` chooses one of several folders of labels; ``names`` is the file, relative to the folder, that names the
    classes, by default any such file. Images without a file of labels are background, if other images of their folder
    have one.
    """

    name = "YOLO"
    tasks = ("detection", "instance_segmentation")
    marks = "a .txt for each image, and data.yaml"

    def __init__(self, labels: str | None = None, names: str | None = None) -> None:
        self.labels, self.names = labels, names

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """List the sets of labels: one for each name of a folder that starts with ``label``, one for all the others."""
        holds_labels: dict[str, bool] = {}  # by folder, after its first file that is not empty
        sources = []
        for name, files in _label_sets(tree, holds_labels).items():
            if self.labels and name != self.labels:
                continue
            empty = any(holds_labels.get(_parent(file), False) for file in files)  # for folders of empty files alone
            files = [file for file in files if holds_labels.get(_parent(file), empty)]
            pairs = {image: file for file in files if (image := tree.image_of(file))}
            if not pairs:
                continue
            folders = set(map(_parent, pairs))
            images = [image for image in tree.images if _parent(image) in folders]
            stray = sorted(set(files) - set(pairs.values()))
            splits = _declared_splits(tree, images, self.names) or by_split(images)
            parts = {
                split: YoloSplit({image: pairs.get(image) for image in part}, stray) for split, part in splits.items()
            }
            sources.append(DatasetSource(self, tree, tree.root / name, parts, has_category_ids=True))
        return sources

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        """Read the label files of a split."""
        part = source.splits[split]
        table = read_yolo(source.tree.root, part.labels, part.stray, self.names, issues)
        return table.with_masks(masks, {}, issues)

    def write(
        self, splits: Mapping[str, DetectionAnnotations], out: Path, place: Callable[[Path, Path], None]
    ) -> ConversionReport:
        """Write images, labels and data.yaml; objects with masks become polygons."""
        return write_yolo(splits, out, place)


@dataclass(frozen=True)
class YoloSplit:
    """Files of a split."""

    labels: dict[str, str | None]  # by image
    stray: list[str]  # label files without an image


def _parent(file: str) -> str:
    return file.rpartition("/")[0]


def _label_sets(tree: Tree, holds_labels: dict[str, bool]) -> dict[str, list[str]]:
    """Group text files by their folder whose name starts with ``label``; note in ``holds_labels`` which hold labels."""
    sets: dict[str, list[str]] = {}
    for file in tree.ending(".txt"):
        folder, _, name = file.rpartition("/")
        if name in LISTS and not _is_label_file(tree, file):
            continue
        if folder not in holds_labels and (line := _first_line(tree.root / file)):
            holds_labels[folder] = bool(LINE.fullmatch(line))
        named = [part for part in folder.split("/") if part.lower().startswith("label")]
        sets.setdefault(named[0] if named else "", []).append(file)
    return sets


def _is_label_file(tree: Tree, file: str) -> bool:
    """Tell if a file named like a list holds labels: an image has its name, and its first line is a label or empty."""
    first = _first_line(tree.root / file)
    return tree.image_of(file) is not None and (not first or bool(LINE.fullmatch(first)))


def _declared_splits(tree: Tree, images: list[str], names: str | None) -> dict[str, list[str]] | None:
    """Return the split that data.yaml declares by folders or lists of images; None if it declares none that is here.

    Paths may be those of another machine, or lead out of the folder: their end, below the folder, counts.
    """
    for file in [names] if names else tree.ending(".yaml", ".yml"):
        if "/" in file or not file.endswith((".yaml", ".yml")):
            continue
        content = _yaml(tree.root / file)
        declared = {split: content.get(split) for split in ("train", "val", "test")}
        listed = {split: _images_at(tree, images, place) for split, place in declared.items() if place}
        parts = {split: part for split, part in listed.items() if part}
        if "train" in parts and len(parts) > 1 and len(set().union(*parts.values())) == sum(map(len, parts.values())):
            return parts
    return None


def _images_at(tree: Tree, images: list[str], places: Any) -> list[str]:
    """Select the images that lie in a folder or a list, or in one of several."""
    selected: list[str] = []
    for place in places if isinstance(places, list) else [places]:
        parts = [part for part in str(place).replace("\\", "/").split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            if end in tree.files and end.endswith(".txt"):
                lines = read_text(tree.root / end).split("\n")
                named = {tree.image_of(end, line.strip().replace("\\", "/")) for line in lines if line.strip()}
                selected += [image for image in images if image in named]
                break
            if inside := [image for image in images if image.startswith(f"{end}/")]:
                selected += inside
                break
    return list(dict.fromkeys(selected))


def read_yolo(
    root: Path,
    pairs: Mapping[str, str | None],
    stray: list[str],
    names: str | None = None,
    issues: IssueCollector = FAIL_FAST,
) -> DetectionAnnotations:
    """Read the label files of images, paths relative to ``root``. ``stray`` are label files without an image.

    The classes are those of data.yaml, classes.txt or a file such as obj.names, numbered from 0. Raises DataError,
    naming file and line, for broken labels.
    """
    known = read_names(root, names)
    builder = Builder(root, root, issues)
    bare = [image for image, label in pairs.items() if not label]
    for kind, files, summary, single in (
        ("label-stray", stray, "left out %d label files without an image", "there is no image of this name"),
        ("label-missing", bare, "%d images have no label file, and are background", "it has no file of labels"),
    ):
        if issues.collects:
            for file in files:
                issues.report(kind, root / file, f"{root / file}: {single}")
        elif files:
            more = f" and {len(files) - 5} more" if len(files) > 5 else ""
            log.warning(f"%s: {summary}: %s", root, len(files), ", ".join(files[:5]) + more)
    used: set[int] = set()
    for image, label in pairs.items():
        index = builder.image(image)
        for number, line in enumerate(read_text(root / label).splitlines() if label else (), start=1):
            if not line.strip():
                continue
            try:
                builder.add(index, *_object(line, known, builder.sizes[index], used))
            except AnnotationError as error:
                message = f"{root / str(label)}: line {number} {error}"
                issues.report(error.kind, root / str(label), message, number, image=root / image)
    if shift := shifted(used, known):
        issues.report("off-by-one", root, f"{root}: {shift}")
    return builder.annotations({name: number for number, name in known.items()})


def read_names(root: Path, only: str | None = None) -> dict[int, str]:
    """Read the names of the classes by number, from files in ``root`` or below it, or from one file.

    Raises DataError for none, for two that disagree, and for a name that occurs twice.
    """
    names = _names_of([root / only] if only else sorted(root.iterdir()), bool(only))
    if not names and not only:
        names = _names_of([root / file for file in Tree(root).ending("classes.txt", *NAMES)], False)
    if not names:
        raise DataError(
            f"{root}: nothing names the classes of its YOLO labels: put data.yaml (`names: [cat, dog]`) there"
        )
    if len(set(names.values())) < len(names):
        twice = max(names.values(), key=list(names.values()).count)
        raise DataError(f"{root}: more than one class is called {twice!r}; make them differ")
    return dict(sorted(names.items()))


def _names_of(files: list[Path], chosen: bool) -> dict[int, str]:
    """Merge the class names of the files that can hold them; any ``chosen`` file can. Raises DataError."""
    names: dict[int, str] = {}
    for file in files:
        if file.suffix in (".yaml", ".yml"):
            read = _yaml_names(file)
        elif chosen or file.name == "classes.txt" or file.suffix == ".names":
            read = dict(enumerate(line.strip() for line in read_text(file).splitlines() if line.strip()))
        else:
            continue
        for number, name in read.items():
            if names.setdefault(number, name) != name:
                raise DataError(
                    f"{file}: calls class {number} {name!r}, another file of {file.parent} calls it {names[number]!r}; "
                    "choose one with `format='YoloFormat'` and `format.names='FILE'`"
                )
    return names


def _yaml(file: Path) -> dict[Any, Any]:
    """Read the settings of a YAML file. Raises DataError."""
    try:
        content = yaml.safe_load(read_text(file))
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise DataError(f"{file}: broken YAML: {error}") from None
    return content if isinstance(content, dict) else {}


def _yaml_names(file: Path) -> dict[int, str]:
    """Read the names in a YAML file: a list, or by number."""
    names = _yaml(file).get("names")
    if names is None:
        return {}
    if isinstance(names, list):
        names = dict(enumerate(names))
    valid = isinstance(names, dict) and all(
        type(number) is int and 0 <= number < 1e9 and isinstance(name, str | int) for number, name in names.items()
    )
    if not valid:
        raise DataError(f"{file}: names must be a list of the names of the classes, or names by number")
    return {number: str(name) for number, name in names.items()}


def _object(
    line: str, names: dict[int, str], size: tuple[int, int], used: set[int]
) -> tuple[str, Box, float, list[tuple[float, float]] | None]:
    """Name, box in pixels, area and polygon of one line; its class is added to ``used``. Raises AnnotationError."""
    first, *rest = line.split()
    if not first.isascii() or not first.isdigit() or len(first) > 9:
        raise AnnotationError("label-broken", f"begins with {first!r}, not with the number of a class")
    used.add(int(first))
    if int(first) not in names:
        known = f"they go from {min(names)} to {max(names)}"
        raise AnnotationError("category-unknown", f"has class {first}, and no class has this number; {known}")
    try:
        values = [float(value) for value in rest]
    except ValueError:
        raise AnnotationError("box-nan", f"has values that are not numbers: {line.strip()[:80]!r}") from None
    if not all(map(math.isfinite, values)):
        raise AnnotationError("box-nan", f"has a non-finite value: {line.strip()[:80]!r}")
    height, width = size
    if len(values) == 4:
        x, y, w, h = values
        corners = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
        x1, y1, x2, y2 = (round(corner, DIGITS) for corner in corners)
        return names[int(first)], (x1, y1, x2, y2), math.nan, None
    if len(values) < 6 or len(values) % 2:
        message = f"has {len(values)} numbers after the class; a box has 4, a polygon 3 or more pairs"
        raise AnnotationError("mask-broken" if len(values) == 2 else "label-broken", message)
    points = [
        (round(x * width, DIGITS), round(y * height, DIGITS)) for x, y in zip(values[::2], values[1::2], strict=True)
    ]
    return names[int(first)], polygon_box(points), polygon_area(points), points


def _first_line(file: Path) -> str:
    """Read the first line of a file; empty if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return stream.read(4096).decode(errors="replace").strip().partition("\n")[0]
    except OSError:
        return ""
