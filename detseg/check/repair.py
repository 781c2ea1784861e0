"""A repaired copy of a data set, and a list of what is different in it."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detseg.check.checking import CheckResult, readable
from detseg.check.labels import repeated
from detseg.data.annotations.detection import DetectionAnnotations, looks_normalized
from detseg.data.annotations.images import read_image
from detseg.data.annotations.issues import IssueCollector
from detseg.data.annotations.semantic import SemanticAnnotations
from detseg.errors import DataError
from detseg.folders import make_folder

HOPELESS = ("labels-unreadable", "off-by-one")  # only a person can say what was meant
LOST = ("image-missing", "image-unreadable", "image-truncated", "image-bomb", "image-size")
CHANGED = ("image-type", "image-rotated", "image-16bit", "image-alpha", "image-cmyk")
DROPPED = (  # by the readers already
    *("label-broken", "image-unknown", "category-unknown", "id-doubled", "box-nan", "box-area", "box-negative"),
    *("box-outside", "mask-broken", "mask-missing", "label-stray"),
)
CHANGES = "changes.txt"
QUALITY = 95  # of JPEGs that are written anew


def repair(checked: CheckResult, out: Path, advance: Callable[[], None]) -> list[str]:
    """Write what is sound of a data set to the empty folder ``out``, in COCO format or as images and maps of labels.

    ``advance`` is called for each image. Returns what was changed, which CHANGES in ``out`` lists too. The source is
    not touched. Raises DataError where nobody but a person can say what was meant, ConfigError for a folder that is not
    empty or lies in the data set.
    """
    for kind in HOPELESS:
        if faults := checked.of_kind(kind):
            raise DataError(f"{faults[0].message}: no program can repair this; correct it, and check again")
    make_folder("--fix", out, checked.root)
    changes = [
        f"left out{f', with {fault.image}' if fault.image and fault.annotation is None else ''}: {fault.message}"
        for fault in checked.faults
        if fault.kind in (*LOST, *DROPPED)
    ]
    copied: dict[str, dict[int, str]] = {split: {} for split in checked.parts}
    lost, twice = _lost(checked), _twice(checked)
    changes += [f"left out: {text}" for text in twice.values()]
    wrong: dict[str, list[str]] = defaultdict(list)
    for fault in checked.faults:
        if fault.kind in CHANGED:
            wrong[fault.file].append(fault.kind)
    maps = any(isinstance(part, SemanticAnnotations) for part in checked.parts.values())
    taken: dict[str, set[str]] = defaultdict(set)
    for split, row, path, size in _images(checked):
        advance()
        if str(path) in lost or (split, row) in twice:
            continue
        folder = out / "images" / ("" if split == "all" else split)
        name = _inside(str(checked.parts[split].files[row]), checked.root)
        name = _flat(name, taken[split]) if maps else name
        try:
            copied[split][row] = name = _copy_image(path, name, folder, size, str(path) in wrong)
        except DataError as error:
            changes.append(f"left out: {error}")
            continue
        if str(path) in wrong:
            changes.append(
                f"written anew: {path} ({', '.join(wrong[str(path)])}) as {name}, 8 bits, RGB, not to be turned"
            )
    changes += (_write_maps if maps else _write_objects)(checked, copied, out)
    lines = "".join(f"{line}\n" for line in changes)
    (out / CHANGES).write_text(lines, encoding="utf-8", errors="backslashreplace")
    return changes


def _images(checked: CheckResult) -> Iterator[tuple[str, int, Path, tuple[int, int]]]:
    """Part, row, path, and height and width as labelled of each image."""
    for split, part in checked.parts.items():
        sizes = part.sizes if isinstance(part, DetectionAnnotations) else checked.sizes[split]
        for row, (height, width) in enumerate(sizes.tolist()):
            yield split, row, part.path(row), (height, width)


def _lost(checked: CheckResult) -> set[str]:
    """Paths of images that cannot be used, or whose file of labels is broken as a whole."""
    broken = [fault for fault in checked.of_kind("label-broken") if fault.annotation is None]
    return {fault.image or fault.file for fault in broken} | {
        fault.file for fault in checked.faults if fault.kind in LOST
    }


def _twice(checked: CheckResult) -> dict[tuple[str, int], str]:
    """Part and row of each image that there is before, and what there is to say."""
    return {
        (split, row): f"{checked.parts[split].path(row)} ({split}): the same as {path} ({first})"
        for split, row, first, path in repeated(checked.parts, readable(checked.sizes))
    }


def _copy_image(path: Path, name: str, folder: Path, size: tuple[int, int], anew: bool) -> str:
    """Copy an image, or write its pixels as a training sees them; return its name below ``folder``."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not anew:
        shutil.copyfile(path, target)
        return name
    pixels = Image.fromarray(read_image(path, size))
    if path.suffix.lower() in (".jpg", ".jpeg"):
        pixels.save(target, format="JPEG", quality=QUALITY)
        return name
    name = name if path.suffix.lower() == ".png" else f"{name}.png"
    pixels.save(folder / name, format="PNG")
    return name


def _inside(name: str, root: Path) -> str:
    """A path that does not lead out of its folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() and path.is_relative_to(root.absolute()):
        path = path.relative_to(root.absolute())
    return path.name if path.is_absolute() or ".." in path.parts else str(path)


def _flat(name: str, taken: set[str]) -> str:
    """A name without folders, whose stem is not ``taken`` yet: images and maps are paired by their stems."""
    path = PurePosixPath(name)
    more = (f"{path.stem}_{number}{path.suffix}" for number in itertools.count(2))
    names = itertools.chain([path.name, "_".join(path.parts)], more)
    free = next(one for one in names if PurePosixPath(one).stem.lower() not in taken)
    taken.add(PurePosixPath(free).stem.lower())
    return free


def _write_objects(checked: CheckResult, copied: dict[str, dict[int, str]], out: Path) -> list[str]:
    """Write an annotation file for each part."""
    names, changes = _names(checked)
    ids = _category_ids(checked, names)
    for split, part in checked.parts.items():
        assert isinstance(part, DetectionAnnotations)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for row, name in copied[split].items():
            height, width = part.sizes[row].tolist()
            images.append({"id": len(images) + 1, "file_name": name, "height": height, "width": width})
            for number in range(*part.objects(row).indices(len(part.labels))):
                box, change = _box(part.boxes[number], height, width)
                if change:
                    changes.append(
                        f"{change}: {part.path(row)} annotation {part.ids[number]}: {part.boxes[number].tolist()}"
                    )
                if box is not None:
                    entry = _entry(part, number, box, (height, width))
                    label = ids[names[part.classes[part.labels[number]]]]
                    annotations.append(
                        {"id": len(annotations) + 1, "image_id": len(images), "category_id": label} | entry
                    )
        categories = [{"id": number, "name": name} for name, number in ids.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        file = out / "annotations" / f"{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    return changes


def _entry(part: DetectionAnnotations, number: int, box: NDArray[np.float64], size: tuple[int, int]) -> dict[str, Any]:
    """What an annotation says beside its numbers."""
    x1, y1, x2, y2 = box.tolist()
    clipped = not np.array_equal(box, part.boxes[number])
    entry: dict[str, Any] = {
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1) if clipped and part.masks is None else float(part.areas[number]),
        "iscrowd": int(part.crowd[number]),
    }
    if part.difficult[number]:
        entry["difficult"] = 1  # of no meaning in COCO
    mask = None if part.masks is None else part.masks.segmentation(number, *size)
    return entry if mask is None else entry | {"segmentation": mask}


def _box(box: NDArray[np.float64], height: int, width: int) -> tuple[NDArray[np.float64] | None, str | None]:
    """A box as it should be, None for one to leave out, and what was done with it."""
    limits = np.array([width, height, width, height])
    if looks_normalized(box[None], np.array([[height, width]], dtype=np.int32))[0]:
        shares = box + np.array([1, 1, 0, 0]) if (box[:2] < 0).any() else box  # the reader of VOC has taken a pixel off
        sound = (shares >= 0).all() and (shares[2:] > shares[:2]).all()
        return (shares * limits, "made pixels of shares") if sound else (None, "left out")
    clipped = box.clip(0, limits)
    if (clipped[2:] - clipped[:2] < 1).any():
        return None, "left out, as a side is below a pixel"
    if np.abs(clipped - box).max() > 1:
        return clipped, "clipped"
    return box, None


def _names(checked: CheckResult) -> tuple[dict[str, str], list[str]]:
    """The name to use for each class, one for several that differ in white space alone; and the changes."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in checked.counts:
        alike[" ".join(name.split())].append(name)
    names: dict[str, str] = {}
    changes: list[str] = []
    for spaced, group in alike.items():
        names |= dict.fromkeys(group, spaced if len(group) > 1 else group[0])
        changes += [f"class {name!r} is called {names[name]!r}" for name in group if names[name] != name]
    return names, changes


def _category_ids(checked: CheckResult, names: dict[str, str]) -> dict[str, int]:
    """The data set's own numbers of the classes, where all parts agree on them; else from 1 on."""
    found: dict[str, set[int]] = defaultdict(set)
    for part in checked.parts.values():
        for name, number in zip(part.classes, part.category_ids, strict=True):
            if names[name] == name or names[name] not in part.classes:
                found[names[name]].add(number)
    numbers = [min(one) for one in found.values()]
    if len(set(numbers)) < len(numbers) or any(len(one) > 1 for one in found.values()):
        return {name: number for number, name in enumerate(sorted(found), start=1)}
    return {name: min(one) for name, one in sorted(found.items(), key=lambda one: min(one[1]))}


def _write_maps(checked: CheckResult, copied: dict[str, dict[int, str]], out: Path) -> list[str]:
    """Write the map of labels of each image: the number of the class of each pixel, 255 for none."""
    undefined = {fault.file: fault.message for fault in checked.of_kind("mask-undefined")}
    for split, part in checked.parts.items():
        assert isinstance(part, SemanticAnnotations)
        for row, name in copied[split].items():
            target = out / "masks" / ("" if split == "all" else split) / f"{PurePosixPath(name).stem}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(part.labels(row, IssueCollector())).save(target, format="PNG")
        (out / "classes.txt").write_text("".join(f"{name}\n" for name in part.classes), encoding="utf-8")
    return [f"made void: {text}" for text in undefined.values()]
