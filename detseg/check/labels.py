"""Faults that show only when the labels of a whole data set lie side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import Issue, shifted
from detseg.data.annotations.semantic import LabelFiles, SemanticAnnotations
from detseg.data.splits import group_identical
from detseg.structures import IGNORE_INDEX

Part = DetectionAnnotations | SemanticAnnotations

UNBALANCED = 10  # so many times fewer objects than the largest class has


def class_counts(parts: Mapping[str, Part], numbers: Mapping[str, NDArray[np.int64]]) -> dict[str, dict[str, int]]:
    """Objects of each class in each part, by name; of maps of labels pixels, with ``numbers`` (256,) of each part."""
    found: dict[str, dict[str, int]] = {
        name: dict.fromkeys(parts, 0) for part in parts.values() for name in part.classes
    }
    for split, part in parts.items():
        if isinstance(part, DetectionAnnotations):
            counts = np.bincount(part.labels, minlength=len(part.classes))
        else:
            counts = numbers[split][known_numbers(part)]
        for name, count in zip(part.classes, counts.tolist(), strict=True):
            found[name][split] += count
    return found


def class_issues(root: Path, counts: Mapping[str, Mapping[str, int]], training: str) -> Iterator[Issue]:
    """What is odd about the names and the numbers of the classes; ``training`` is the part to train on."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in counts:
        alike[unified(name)].append(name)
    for names in alike.values():
        if len(names) > 1:
            listed = ", ".join(f"{name!r} ({sum(counts[name].values())})" for name in names)
            yield Issue("class-names", str(root), f"classes that may be one: {listed}", names[0])
    totals = {name: sum(parts.values()) for name, parts in counts.items()}
    most = max(totals, key=totals.__getitem__, default="")
    for name, total in totals.items():
        if not total:
            yield Issue("class-unused", str(root), f"class {name!r} has no object", name)
        elif training in counts[name] and not counts[name][training]:
            yield Issue("class-unseen", str(root), f"class {name!r} has {total} objects, but none in {training}", name)
        elif total * UNBALANCED < totals[most]:
            told = f"class {name!r} has {total}, {most!r} has {totals[most]}"
            yield Issue("class-unbalanced", str(root), told, name)


def unified(name: str) -> str:
    """A name without capitals and spaces, by which classes that are one may differ."""
    return "".join(name.casefold().split())


def object_issues(split: str, part: DetectionAnnotations, broken: Container[str | None]) -> Iterator[Issue]:
    """Parts without any object, and images without one, unless the labels of these are ``broken``."""
    if not len(part.labels):
        yield Issue("objects-none", str(part.root), f"{part.root}: the part {split} has no object that can be used")
        return
    for row in np.flatnonzero(np.diff(part.offsets) == 0):
        file = str(part.path(int(row)))
        if file not in broken:
            yield Issue("image-empty", file, f"{file}: no object")


def known_numbers(part: SemanticAnnotations) -> list[int]:
    """The number of each class in the maps of labels."""
    return list(getattr(part.maps, "numbers", None) or range(len(part.classes)))


def mask_issues(part: SemanticAnnotations, numbers: list[NDArray[np.int64] | None]) -> Iterator[Issue]:
    """Numbers in maps of labels that stand for no class; ``numbers`` (256,) count the pixels of each image."""
    if not isinstance(part.maps, LabelFiles):
        return
    classes = known_numbers(part)
    known = set(classes) | set(part.maps.void)
    used: set[int] = set()
    for row, counts in zip(part.rows.tolist(), numbers, strict=True):
        if counts is None:
            continue
        seen = set(np.flatnonzero(counts).tolist())
        used |= seen
        path = str(part.maps.paths[row])
        for number in sorted(seen - known):
            told = f"{path}: {counts[number]} pixels have the number {number}; the classes are {part.maps.named()}"
            yield Issue("mask-undefined", path, told, number)
    if shift := shifted(used - set(part.maps.void) - {IGNORE_INDEX}, classes):
        yield Issue("off-by-one", str(part.root), f"{part.root}: number {shift}")


def duplicates(parts: Mapping[str, Part], readable: Mapping[str, NDArray[np.bool_]]) -> Iterator[Issue]:
    """Images that are the same byte by byte, in a part or in two of them; only ``readable`` ones are compared."""
    for split, row, first, path in repeated(parts, readable):
        again = parts[split].path(row)
        if split == first:
            yield Issue("duplicate", str(again), f"{again}: the same as {path}")
        else:
            yield Issue("duplicate-across", str(again), f"{again} ({split}): the same as {path} ({first})")


def repeated(
    parts: Mapping[str, Part], readable: Mapping[str, NDArray[np.bool_]]
) -> Iterator[tuple[str, int, str, Path]]:
    """Part and row of each image that there is before, and part and path of the first such one."""
    images = [(split, row) for split in parts for row in np.flatnonzero(readable[split]).tolist()]
    for group in group_identical([parts[split].path(row) for split, row in images]):
        first, *others = (images[position] for position in group)
        yield from ((*other, first[0], parts[first[0]].path(first[1])) for other in others)
