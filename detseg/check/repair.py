"""A repaired copy of a data set, with a list of its changes."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detseg.check.checking import CheckResult, is_readable
from detseg.check.label_checks import find_duplicates
from detseg.data.annotations.detection import DetectionAnnotations, looks_normalized
from detseg.data.annotations.images import FILE_TYPES
from detseg.data.annotations.issues import IssueCollector
from detseg.data.annotations.semantic import SemanticAnnotations
from detseg.errors import DataError
from detseg.folders import make_folder

NOT_REPAIRABLE = ("labels-unreadable", "off-by-one", "box-pixels", "box-corners")  # the right labels are unknown
DROPPED_IMAGES = (
    *("image-missing", "image-unreadable", "image-truncated", "image-bomb", "image-size"),
    *("near-duplicate", "near-duplicate-across"),  # without their objects, which are in another place of the first
)
CONVERTED_IMAGES = ("image-type", "image-rotated", "image-16bit", "image-alpha", "image-cmyk")
DROPPED_LABELS = (  # by the readers already
    *("label-broken", "image-unknown", "category-unknown", "id-doubled", "box-nan", "box-area", "box-negative"),
    *("box-outside", "mask-broken", "mask-missing", "label-stray", "shape-unsupported", "file-unused"),
    *("image-ambiguous", "object-doubled"),
)
CHANGES_FILE = "changes.txt"
JPEG_QUALITY = 95  # of converted images

Row = tuple[DetectionAnnotations, int]  # an object of a table
Copied = dict[str, dict[int, str]]  # for each split, index and new name of each image


def repair(result: CheckResult, out: Path, advance: Callable[[], None], corrected: Sequence[str] = ()) -> list[str]:
    """Write the usable part of a data set to the empty folder ``out``, in COCO format or as images and masks.

    ``advance`` is called for each image; ``corrected`` are changes that were made before. Returns all changes, which
    CHANGES_FILE in ``out`` lists as well. The source is not modified. Raises DataError for issues that only a person
    can resolve, and ConfigError for a folder that is not empty or lies in the data set.
    """
    for kind in NOT_REPAIRABLE:
        if issues := result.of_kind(kind):
            raise DataError(f"{issues[0].message}: no program can repair this; correct it, and check again")
    make_folder("--fix", out, result.root)
    changes = [*corrected]
    changes += [
        f"left out{f', with {issue.image}' if issue.image and issue.annotation is None else ''}: {issue.message}"
        for issue in result.issues
        if issue.kind in (*DROPPED_IMAGES, *DROPPED_LABELS)
    ]
    duplicates = _duplicates(result)
    changes += [f"left out: {text}" for text in duplicates.values()]
    semantic = any(isinstance(annotations, SemanticAnnotations) for annotations in result.splits.values())
    copied, image_changes = _copy_images(result, duplicates, out / "images", semantic, advance)
    changes += image_changes
    if semantic:
        changes += _write_masks(result, copied, out)
    else:
        changes += _write_objects(result, copied, out, _rows(result, duplicates))
    lines = "".join(f"{line}\n" for line in changes)
    (out / CHANGES_FILE).write_text(lines, encoding="utf-8", errors="backslashreplace")
    return changes


def _copy_images(
    result: CheckResult,
    duplicates: dict[tuple[str, int], str],
    out: Path,
    flat: bool,
    advance: Callable[[], None],
) -> tuple[Copied, list[str]]:
    """Copy or convert all usable images, with ``flat`` without folders; return their names and the changes."""
    dropped = _dropped_images(result)
    conversions: dict[str, list[str]] = defaultdict(list)
    for issue in result.issues:
        if issue.kind in CONVERTED_IMAGES:
            conversions[issue.file].append(issue.kind)
    copied: Copied = {split: {} for split in result.splits}
    used_stems: dict[str, set[str]] = defaultdict(set)
    changes = []
    for split, index, path, size in _images(result):
        advance()
        if str(path) in dropped or (split, index) in duplicates:
            continue
        folder = out / ("" if split == "all" else split)
        name = _name_inside(str(result.splits[split].files[index]), result.root)
        name = _flat_name(name, used_stems[split]) if flat else name
        reasons = conversions[str(path)]
        try:
            pixels = result.splits[split].read_image(index, size) if reasons else None
            copied[split][index] = name = _copy_image(path, name, folder, pixels)
        except DataError as error:
            changes.append(f"left out: {error}")
            continue
        if reasons:
            changes.append(f"converted: {path} ({', '.join(reasons)}) to {name}, 8 bits, RGB, upright")
    return copied, changes


def _images(result: CheckResult) -> Iterator[tuple[str, int, Path, tuple[int, int]]]:
    """Yield split, index, path, and height and width in the labels, of each image."""
    for split, table in result.splits.items():
        sizes = table.sizes if isinstance(table, DetectionAnnotations) else result.image_sizes[split]
        for index, (height, width) in enumerate(sizes.tolist()):
            yield split, index, table.path(index), (height, width)


def _dropped_images(result: CheckResult) -> set[str]:
    """Return the paths of images that are unusable, or whose whole label file is broken."""
    broken = [issue for issue in result.of_kind("label-broken") if issue.annotation is None]
    return {issue.image or issue.file for issue in broken} | {
        issue.file for issue in result.issues if issue.kind in DROPPED_IMAGES
    }


def _duplicates(result: CheckResult) -> dict[tuple[str, int], str]:
    """Return split and index of each repeated image with a message."""
    return {
        (split, index): f"{result.splits[split].path(index)} ({split}): the same as {path} ({first_split})"
        for split, index, first_split, path in find_duplicates(result.splits, is_readable(result.image_sizes))
    }


def _copy_image(path: Path, name: str, folder: Path, pixels: NDArray[np.uint8] | None) -> str:
    """Copy an image, or write the ``pixels`` (h, w, 3) that a training reads; return its name below ``folder``."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        shutil.copyfile(path, target)
        return name
    image = Image.fromarray(pixels)
    if "JPEG" in FILE_TYPES.get(path.suffix.lower(), ()):
        image.save(target, format="JPEG", quality=JPEG_QUALITY)
        return name
    name = name if path.suffix.lower() == ".png" else f"{name}.png"
    image.save(folder / name, format="PNG")
    return name


def _name_inside(name: str, root: Path) -> str:
    """Return a relative path that does not leave its folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() and path.is_relative_to(root.absolute()):
        path = path.relative_to(root.absolute())
    return path.name if path.is_absolute() or ".." in path.parts else str(path)


def _flat_name(name: str, used_stems: set[str]) -> str:
    """Return a name without folders and with a new stem: images and masks are paired by their stems."""
    path = PurePosixPath(name)
    numbered = (f"{path.stem}_{number}{path.suffix}" for number in itertools.count(2))
    names = itertools.chain([path.name, "_".join(path.parts)], numbered)
    free = next(name for name in names if PurePosixPath(name).stem.lower() not in used_stems)
    used_stems.add(PurePosixPath(free).stem.lower())
    return free


def _rows(result: CheckResult, duplicates: Mapping[tuple[str, int], str]) -> dict[Path, list[Row]]:
    """List the objects of each image, each once: also those of the left out images that are the same."""
    kept = {
        (split, index): [(split, index)]
        for split, table in result.splits.items()
        for index in range(len(table))
        if (split, index) not in duplicates
    }
    by_path = {result.splits[split].path(index): (split, index) for split, index in kept}
    for split, index, _, path in find_duplicates(result.splits, is_readable(result.image_sizes)):
        kept[by_path[path]].append((split, index))
    objects: dict[Path, list[Row]] = {}
    for (split, index), images in kept.items():
        unique: dict[tuple[Any, ...], Row] = {}
        for table, image in ((result.splits[other], number) for other, number in images):
            assert isinstance(table, DetectionAnnotations)
            for row in range(*table.objects(image).indices(len(table.labels))):
                mask = None if table.masks is None else str(table.masks.segmentation(row, *table.sizes[image].tolist()))
                key = (table.classes[table.labels[row]], *table.boxes[row].tolist(), mask)
                unique.setdefault(key, (table, row))
        objects.setdefault(result.splits[split].path(index), [*unique.values()])
    return objects


def _write_objects(result: CheckResult, copied: Copied, out: Path, objects: Mapping[Path, list[Row]]) -> list[str]:
    """Write a COCO annotation file for each split; return the changes."""
    names, changes = _class_names(result)
    ids = _category_ids(result, names)
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    for split, table_of_split in result.splits.items():
        if not copied[split] and any(copied.values()):
            changes.append(f"left out: the split {split}, of which no image is left")
            continue
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index, name in copied[split].items():
            height, width = table_of_split.sizes[index].tolist()
            images.append({"id": len(images) + 1, "file_name": name, "height": height, "width": width})
            path = table_of_split.path(index)
            for table, row in objects[path]:
                box, change = _repair_box(table.boxes[row], height, width)
                if change:
                    subject = f"{path} annotation {table.ids[row]}"
                    changes.append(f"{change}: {subject}: {table.boxes[row].tolist()}")
                if box is not None:
                    label = ids[names[table.classes[table.labels[row]]]]
                    header = {"id": len(annotations) + 1, "image_id": len(images), "category_id": label}
                    annotations.append(header | _annotation(table, row, box, (height, width)))
        file = out / "annotations" / f"{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(
            json.dumps({"images": images, "annotations": annotations, "categories": categories}), encoding="utf-8"
        )
    return changes


def _annotation(
    table: DetectionAnnotations, row: int, box: NDArray[np.float64], size: tuple[int, int]
) -> dict[str, Any]:
    """Return a COCO annotation without its ids."""
    x1, y1, x2, y2 = box.tolist()
    clipped = not np.array_equal(box, table.boxes[row])
    annotation: dict[str, Any] = {
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1) if clipped and table.masks is None else float(table.areas[row]),
        "iscrowd": int(table.crowd[row]),
    }
    if table.difficult[row]:
        annotation["difficult"] = 1  # not a key of COCO's
    mask = None if table.masks is None else table.masks.segmentation(row, *size)
    return annotation if mask is None else annotation | {"segmentation": mask}


def _repair_box(box: NDArray[np.float64], height: int, width: int) -> tuple[NDArray[np.float64] | None, str | None]:
    """Return the repaired box, None if it is to be left out, and the change if there is one."""
    limits = np.array([width, height, width, height])
    if looks_normalized(box[None], np.array([[height, width]], dtype=np.int32))[0]:
        # VOC's reader has subtracted a pixel.
        normalized = box + np.array([1, 1, 0, 0]) if (box[:2] < 0).any() else box
        valid = (normalized >= 0).all() and (normalized[2:] > normalized[:2]).all()
        return (normalized * limits, "scaled from 0..1 to pixels") if valid else (None, "left out")
    clipped = box.clip(0, limits)
    if (clipped[2:] - clipped[:2] < 1).any():
        return None, "left out, as a side is below a pixel"
    if np.abs(clipped - box).max() > 1:
        return clipped, "clipped"
    return box, None


def _class_names(result: CheckResult) -> tuple[dict[str, str], list[str]]:
    """Merge classes that differ only in white space; return the new name of each class, and the changes."""
    similar: dict[str, list[str]] = defaultdict(list)
    for name in result.class_counts:
        similar[" ".join(name.split())].append(name)
    names: dict[str, str] = {}
    changes: list[str] = []
    for spaced, group in similar.items():
        names |= dict.fromkeys(group, spaced if len(group) > 1 else group[0])
        changes += [f"class {name!r} renamed to {names[name]!r}" for name in group if names[name] != name]
    return names, changes


def _category_ids(result: CheckResult, names: dict[str, str]) -> dict[str, int]:
    """Return the category ids of the data set if all splits agree on them, else 1, 2, 3 and so on."""
    ids: dict[str, set[int]] = defaultdict(set)
    for table in result.splits.values():
        for name, number in zip(table.classes, table.category_ids, strict=True):
            if names[name] == name or names[name] not in table.classes:
                ids[names[name]].add(number)
    smallest = [min(of_class) for of_class in ids.values()]
    if len(set(smallest)) < len(smallest) or any(len(of_class) > 1 for of_class in ids.values()):
        return {name: number for number, name in enumerate(sorted(ids), start=1)}
    return {name: min(of_class) for name, of_class in sorted(ids.items(), key=lambda item: min(item[1]))}


def _write_masks(result: CheckResult, copied: Copied, out: Path) -> list[str]:
    """Write the semantic mask of each image, with 255 for void; return the changes."""
    undefined = {issue.file: issue.message for issue in result.of_kind("mask-undefined")}
    for split, table in result.splits.items():
        assert isinstance(table, SemanticAnnotations)
        for index, name in copied[split].items():
            target = out / "masks" / ("" if split == "all" else split) / f"{PurePosixPath(name).stem}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(table.labels(index, IssueCollector())).save(target, format="PNG")
        names = "".join(f"{name}\n" for name in table.classes)
        (out / "classes.txt").write_text(names, encoding="utf-8")
    return [f"set to void: {text}" for text in undefined.values()]
