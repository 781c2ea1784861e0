"""YOLO labels: a text file for each image, a line for each object: its class, and a box or a polygon."""

from __future__ import annotations

import logging
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from detseg.data.annotations.builder import Box, Builder, Source, polygon_area, polygon_box
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import AnnotationError, collects, report, shifted
from detseg.data.formats.layout import Tree, by_split, read_text
from detseg.errors import DataError

log = logging.getLogger(__name__)

LINE = re.compile(r"\d+(\s+[-+.\deE]+){4,}\s*")
DIGITS = 9  # of a pixel, behind the point: more are the noise of the division, which could move an outline by a pixel
NAMES = (".yaml", ".yml", ".names")
LISTS = ("classes.txt", "train.txt", "val.txt", "test.txt")  # may stand beside the labels, and be none


def find_yolo(tree: Tree, names: str | None = None) -> list[Source]:
    """Sets of labels in a folder: one for each folder called labels-something, one for labels beside their images.

    ``names`` is the file, relative to the folder, that names the classes; by default it is found. Images without a
    file of labels are background, if other images of their folder have one.
    """
    sets: dict[str, list[str]] = {}
    looks: dict[str, bool] = {}  # of each folder, by its first file that is not empty
    for file in tree.ending(".txt"):
        folder, _, name = file.rpartition("/")
        if name in LISTS and not _labels_of_image(tree, file):
            continue
        if not looks.get(folder, False) and (lines := _start(tree.root / file)):
            looks[folder] = looks.get(folder, True) and bool(LINE.fullmatch(lines))
        named = [part for part in folder.split("/") if part.lower().startswith("label")]
        sets.setdefault(named[0] if named else "", []).append(file)
    found = []
    for name, labels in sets.items():
        like = any(looks.get(file.rpartition("/")[0], False) for file in labels)  # what to think of empty files alone
        labels = [file for file in labels if looks.get(file.rpartition("/")[0], like)]
        pairs = {image: file for file in labels if (image := tree.image_of(file))}
        if not pairs:
            continue
        folders = {image.rpartition("/")[0] for image in pairs}
        images = [image for image in tree.images if image.rpartition("/")[0] in folders]
        lost = sorted(set(labels) - set(pairs.values()))
        parts = {
            split: partial(read_yolo, tree.root, {image: pairs.get(image) for image in part}, lost, names=names)
            for split, part in (_told_split(tree, images, names) or by_split(images)).items()
        }
        found.append(Source("YOLO", tree.root / name, parts, numbered=True))
    return found


def _labels_of_image(tree: Tree, file: str) -> bool:
    """Whether a file that is called like a list holds labels: there is an image of its name, and no text in its way."""
    first = _start(tree.root / file)
    return tree.image_of(file) is not None and (not first or bool(LINE.fullmatch(first)))


def _told_split(tree: Tree, images: list[str], names: str | None) -> dict[str, list[str]] | None:
    """The split that data.yaml tells by folders or lists of images; None where it tells none, or none that is here.

    Paths may be those of another machine, or lead out of the folder: what counts is their end, below it.
    """
    for file in [names] if names else tree.ending(".yaml", ".yml"):
        if "/" in file or not file.endswith((".yaml", ".yml")):
            continue
        content = _yaml(tree.root / file)
        told = {split: content.get(split) for split in ("train", "val", "test")}
        listed = {split: _images_at(tree, images, place) for split, place in told.items() if place}
        parts = {split: part for split, part in listed.items() if part}
        if "train" in parts and len(parts) > 1 and len(set().union(*parts.values())) == sum(map(len, parts.values())):
            return parts
    return None


def _images_at(tree: Tree, images: list[str], places: Any) -> list[str]:
    """Those of ``images`` that lie in a folder or stand in a list, or in one of several."""
    found: list[str] = []
    for place in places if isinstance(places, list) else [places]:
        parts = [part for part in str(place).replace("\\", "/").split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            if end in tree.files and end.endswith(".txt"):
                lines = read_text(tree.root / end).split("\n")
                named = {tree.image_of(end, line.strip().replace("\\", "/")) for line in lines if line.strip()}
                found += [image for image in images if image in named]
                break
            if inside := [image for image in images if image.startswith(f"{end}/")]:
                found += inside
                break
    return list(dict.fromkeys(found))


def read_yolo(
    root: Path, pairs: dict[str, str | None], lost: list[str], names: str | None = None
) -> DetectionAnnotations:
    """Read the label files of images, paths relative to ``root``. ``lost`` are label files without an image.

    The classes are those of data.yaml, classes.txt or a file such as obj.names, numbered from 0. Raises DataError,
    naming file and line, for whatever is broken.
    """
    known = read_names(root, names)
    builder = Builder(root, root)
    bare = [image for image, label in pairs.items() if not label]
    _tell("label-stray", "%s: left out %d label files without an image: %s", root, lost)
    _tell("label-missing", "%s: %d images have no label file, and are background: %s", root, bare)
    used: set[int] = set()
    for image, label in pairs.items():
        row = builder.image(image)
        for number, line in enumerate(read_text(root / label).splitlines() if label else (), start=1):
            if not line.strip():
                continue
            try:
                builder.add(row, *_object(line, known, builder.sizes[row], used))
            except AnnotationError as flaw:
                told = f"{root / str(label)}: line {number} {flaw}"
                report(flaw.kind, root / str(label), told, number, image=root / image)
    if shift := shifted(used, known):
        report("off-by-one", root, f"{root}: {shift}")
    return builder.annotations({name: number for number, name in known.items()})


def read_names(root: Path, only: str | None = None) -> dict[int, str]:
    """Names of the classes by number, from the files in ``root`` that give them, or below it; or from one alone.

    Raises DataError for none, for two that disagree, and for a name that stands twice.
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
    """What those of some files say that can name classes; all can if they were chosen for it. Raises DataError."""
    names: dict[int, str] = {}
    for file in files:
        if file.suffix in (".yaml", ".yml"):
            found = _yaml_names(file)
        elif chosen or file.name == "classes.txt" or file.suffix == ".names":
            found = dict(enumerate(line.strip() for line in read_text(file).splitlines() if line.strip()))
        else:
            continue
        for number, name in found.items():
            if names.setdefault(number, name) != name:
                raise DataError(
                    f"{file}: calls class {number} {name!r}, another file of {file.parent} calls it {names[number]!r}; "
                    "give the right one as `names`"
                )
    return names


def _yaml(file: Path) -> dict[Any, Any]:
    """The settings of a YAML file. Raises DataError."""
    try:
        content = yaml.safe_load(read_text(file))
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise DataError(f"{file}: broken YAML: {error}") from None
    return content if isinstance(content, dict) else {}


def _yaml_names(file: Path) -> dict[int, str]:
    """The names of a YAML file: a list, or by number."""
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
    """Name, box in pixels, area and polygon of one line; its class is added to ``used``. Raises Flaw."""
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
        raise AnnotationError("box-nan", f"has something else than numbers: {line.strip()[:80]!r}") from None
    if not all(map(math.isfinite, values)):
        raise AnnotationError("box-nan", f"has a value that is no number: {line.strip()[:80]!r}")
    height, width = size
    if len(values) == 4:
        x, y, w, h = values
        corners = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
        x1, y1, x2, y2 = (round(corner, DIGITS) for corner in corners)
        return names[int(first)], (x1, y1, x2, y2), math.nan, None
    if len(values) < 6 or len(values) % 2:
        told = f"has {len(values)} numbers after the class; a box has 4, a polygon 3 or more pairs"
        raise AnnotationError("mask-broken" if len(values) == 2 else "label-broken", told)
    points = [
        (round(x * width, DIGITS), round(y * height, DIGITS)) for x, y in zip(values[::2], values[1::2], strict=True)
    ]
    return names[int(first)], polygon_box(points), polygon_area(points), points


def _tell(kind: str, message: str, root: Path, files: list[str]) -> None:
    """Say how many files there are of a kind, if any, and name the first; or report each."""
    if collects():
        for file in files:
            text = "there is no image of this name" if kind == "label-stray" else "there is no file of labels for it"
            report(kind, root / file, f"{root / file}: {text}")
    elif files:
        more = f" and {len(files) - 5} more" if len(files) > 5 else ""
        log.warning(message, root, len(files), ", ".join(files[:5]) + more)


def _start(file: Path) -> str:
    """The first line of a file, empty if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return stream.read(4096).decode(errors="replace").strip().partition("\n")[0]
    except OSError:
        return ""
