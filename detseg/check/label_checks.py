"""Issues that appear only across the labels of a whole data set: classes, empty images, duplicates."""

from __future__ import annotations

import csv
import unicodedata
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Set
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detseg.constants import IGNORE_INDEX
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import Issue, shifted
from detseg.data.annotations.semantic import LabelFiles, SemanticAnnotations
from detseg.data.splits import group_identical
from detseg.errors import DataError
from detseg.plural import counted

SplitAnnotations = DetectionAnnotations | SemanticAnnotations

MAX_IMBALANCE = 10  # times as many objects of the largest class


def count_classes(
    splits: Mapping[str, SplitAnnotations], value_counts: Mapping[str, NDArray[np.int64]]
) -> dict[str, dict[str, int]]:
    """Count the objects of each class by name and split, or its pixels, from ``value_counts`` (256,) of each split."""
    totals: dict[str, dict[str, int]] = {
        name: dict.fromkeys(splits, 0) for annotations in splits.values() for name in annotations.classes
    }
    for split, table in splits.items():
        if isinstance(table, DetectionAnnotations):
            counts = np.bincount(table.labels, minlength=len(table.classes))
        else:
            counts = value_counts[split][class_values(table)]
        for name, count in zip(table.classes, counts.tolist(), strict=True):
            totals[name][split] += count
    return totals


def class_issues(root: Path, class_counts: Mapping[str, Mapping[str, int]], train_split: str) -> Iterator[Issue]:
    """Report similar class names, and unused, unseen and rare classes."""
    similar: dict[str, list[str]] = defaultdict(list)
    for name in class_counts:
        similar[normalize_name(name)].append(name)
    for names in similar.values():
        if len(names) > 1:
            listed = ", ".join(f"{name!r} ({sum(class_counts[name].values())})" for name in names)
            yield Issue("class-names", str(root), f"classes that may be one: {listed}", names[0])
    totals = {name: sum(counts.values()) for name, counts in class_counts.items()}
    largest = max(totals, key=totals.__getitem__, default="")
    for name, total in totals.items():
        if not total:
            yield Issue("class-unused", str(root), f"class {name!r} has no object", name)
        elif train_split in class_counts[name] and not class_counts[name][train_split]:
            message = f"class {name!r} has {counted(total, 'object')}, but none in {train_split}"
            yield Issue("class-unseen", str(root), message, name)
        elif total * MAX_IMBALANCE < totals[largest]:
            message = f"class {name!r} has {total}, {largest!r} has {totals[largest]}"
            yield Issue("class-unbalanced", str(root), message, name)


def normalize_name(name: str) -> str:
    """Remove capitals, white space and the form of accents from a class name."""
    return "".join(unicodedata.normalize("NFC", name).casefold().split())


def describe_no_objects(split: str, annotations: DetectionAnnotations) -> str | None:
    """Describe why a split has no object to train or evaluate on; None if it has one."""
    if not (annotations.crowd | annotations.difficult).all():
        return None
    message = (
        f"{annotations.root}: the {split} split has {counted(len(annotations), 'image')} and no object to learn from"
    )
    flags = (("crowds", annotations.crowd), ("difficult", annotations.difficult))
    counts = " and ".join(f"{flag.sum()} are {name}" for name, flag in flags if flag.any())
    if counts:
        message += f": of {len(annotations.labels)} objects, {counts}; if they are ordinary objects, clear the flag"
    return message


def object_issues(split: str, annotations: DetectionAnnotations, broken: Container[str | None]) -> Iterator[Issue]:
    """Report a split without objects, else its images without objects, except those with ``broken`` labels."""
    if message := describe_no_objects(split, annotations):
        yield Issue("objects-none", str(annotations.root), message)
        return
    for index in np.flatnonzero(np.diff(annotations.offsets) == 0).tolist():
        file = str(annotations.path(index))
        if file not in broken:
            yield Issue("image-empty", file, f"{file}: no object")


def describe_all_void(annotations: SemanticAnnotations, used: Set[int]) -> str | None:
    """Describe masks whose ``used`` values are one class and 255, as programs write a mask of two; None for others."""
    if len(annotations.classes) < 2 or IGNORE_INDEX not in used or len(used) != 2:
        return None
    value = min(used)
    message = (
        f"{annotations.root}: the semantic masks hold {value} and {IGNORE_INDEX} alone, and {IGNORE_INDEX} is void"
    )
    return f"{message}; if it means a class, write the number of the class instead"


def class_values(annotations: SemanticAnnotations) -> list[int]:
    """Return the pixel value of each class in the mask files."""
    return list(getattr(annotations.maps, "numbers", None) or range(len(annotations.classes)))


def mask_issues(annotations: SemanticAnnotations, value_counts: list[NDArray[np.int64] | None]) -> Iterator[Issue]:
    """Report undefined pixel values of semantic masks; ``value_counts`` (256,) has the pixels of each image."""
    if not isinstance(annotations.maps, LabelFiles):
        return
    classes, void = class_values(annotations), set(annotations.maps.void)
    used: set[int] = set()
    for row, counts in zip(annotations.rows.tolist(), value_counts, strict=True):
        if counts is None:
            continue
        present = set(np.flatnonzero(counts).tolist())
        used |= present
        path = str(annotations.maps.paths[row])
        for value in sorted(present - set(classes) - void):
            message = (
                f"{path}: {counts[value]} pixels have the value {value}; the classes are {annotations.maps.named()}"
            )
            yield Issue("mask-undefined", path, message, value)
    if all_void := describe_all_void(annotations, used):
        yield Issue("objects-none", str(annotations.root), all_void)
    if shift := shifted(used - void - {IGNORE_INDEX}, classes):
        yield Issue("off-by-one", str(annotations.root), f"{annotations.root}: value {shift}")


def duplicate_issues(
    splits: Mapping[str, SplitAnnotations], readable: Mapping[str, NDArray[np.bool_]]
) -> Iterator[Issue]:
    """Report ``readable`` images with identical bytes, within a split or across two."""
    for split, index, first_split, first_path in find_duplicates(splits, readable):
        path = splits[split].path(index)
        if split == first_split:
            yield Issue("duplicate", str(path), f"{path}: the same as {first_path}")
        else:
            yield Issue("duplicate-across", str(path), f"{path} ({split}): the same as {first_path} ({first_split})")


def near_duplicate_issues(root: Path, file: Path, splits: Mapping[str, SplitAnnotations]) -> Iterator[Issue]:
    """Report the images that ``file``, a table with columns image and same_as, lists as nearly the same as another.

    Raises DataError for a file that is not such a table, or names an image that is in no split.
    """
    names = {
        str(path.relative_to(root) if path.is_relative_to(root) else path): (path, split)
        for split, table in splits.items()
        for path in map(table.path, range(len(table)))
    }
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
            table = csv.DictReader(lines)
            if not {"image", "same_as"} <= set(table.fieldnames or ()):
                raise DataError(f"{file}: has no columns image and same_as; give the file that `detseg embed` writes")
            rows = [(table.line_num, row["image"], row["same_as"]) for row in table]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read as a table: {error}") from error
    for line, image, same_as in rows:
        for name in (image, same_as):
            if name not in names:
                raise DataError(f"{file}, line {line}: {root} has no image {name}; make the list for this data set")
        (path, split), (first, first_split) = names[image], names[same_as]
        if split == first_split:
            yield Issue("near-duplicate", str(path), f"{path}: nearly the same as {first}")
        else:
            message = f"{path} ({split}): nearly the same as {first} ({first_split})"
            yield Issue("near-duplicate-across", str(path), message)


def find_duplicates(
    splits: Mapping[str, SplitAnnotations], readable: Mapping[str, NDArray[np.bool_]]
) -> Iterator[tuple[str, int, str, Path]]:
    """Yield split and index of each repeated image, with the split and the path of its first occurrence."""
    images = [(split, index) for split in splits for index in np.flatnonzero(readable[split]).tolist()]
    for group in group_identical([splits[split].path(index) for split, index in images]):
        first, *others = (images[position] for position in group)
        yield from ((*other, first[0], splits[first[0]].path(first[1])) for other in others)
