"""What is wrong with the entries of a COCO annotation file, all of it, and what is left to read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detseg.data.annotations.issues import report, shifted
from detseg.data.formats.coco.columns import column, id_column
from detseg.data.formats.layout import is_path_traversal, path_traversal_message, sought
from detseg.errors import DataError

Entries = list[dict[str, Any]]


class Column(NamedTuple):
    """What ``column`` needs to know of a value that entries have."""

    dtype: type[np.generic]
    default: Any = None
    shape: tuple[int, ...] = ()


IMAGES = {"id": Column(np.str_), "file_name": Column(np.str_)} | dict.fromkeys(("height", "width"), Column(np.int32, 0))
ANNOTATIONS = {
    "id": Column(np.int64),
    "image_id": Column(np.str_),
    "category_id": Column(np.int64),
    "bbox": Column(np.float64, None, (4,)),
    "area": Column(np.float64, np.nan),
    "iscrowd": Column(np.int64, 0),
}
CATEGORIES = {"id": Column(np.int64), "name": Column(np.str_)}


def sound(file: Path, root: Path, content: dict[str, Entries]) -> dict[str, Entries]:
    """Entries of a file that can be read and belong together; the others are reported; images lie below ``root``."""
    images = _once(file, "images", "id", _inside(file, root, _readable(file, "images", content["images"], IMAGES)))
    categories = _once(file, "categories", "id", _readable(file, "categories", content["categories"], CATEGORIES))
    first: dict[str, int] = {}
    same = {int(entry["id"]): first.setdefault(str(entry["name"]), int(entry["id"])) for entry in categories}
    categories = _once(file, "categories", "name", categories)

    annotations = _readable(file, "annotations", content["annotations"], ANNOTATIONS)
    files = dict(zip(id_column(file, "images", images, "id").tolist(), images, strict=True))
    used: set[int] = set()
    numbers: set[int] = set()
    kept = []
    for entry, image in zip(annotations, id_column(file, "annotations", annotations, "image_id").tolist(), strict=True):
        number, category = int(entry["id"]), int(entry["category_id"])
        used.add(category)
        if number in numbers:
            report("id-doubled", file, f"{file}: more than one annotation has the id {number}", number)
        numbers.add(number)
        if image not in files:
            report(
                "image-unknown", file, f"{file}: annotation {number} is of image {image!r}, which is not listed", number
            )
        elif category not in same:
            about = f"{file}: annotation {number} ({files[image]['file_name']}) has category_id {category}"
            report("category-unknown", file, f"{about}, which is not in the categories", number)
        else:
            kept.append(entry | {"category_id": same[category]} if same[category] != category else entry)
    if shift := shifted(used, same):
        report("off-by-one", file, f"{file}: category_id {shift}")
    return content | {"images": images, "annotations": kept, "categories": categories}


def _readable(file: Path, section: str, entries: Entries, columns: Mapping[str, Column]) -> Entries:
    """The entries whose values can all be read."""
    for key, (dtype, default, shape) in columns.items():
        try:
            column(file, section, entries, key, dtype, default, shape)
            continue
        except DataError:
            pass
        kept = []
        for position, entry in enumerate(entries):
            try:
                column(file, section, [entry], key, dtype, default, shape)
                kept.append(entry)
            except DataError as error:
                number = entry.get("id")
                told = str(error).replace(f"{section}[0]", f"{section}[{position}]")
                kind = "box-nan" if key == "bbox" and entry.get("bbox") is not None else "label-broken"
                report(kind, file, told, number if isinstance(number, int | str) else None)
        entries = kept
    return entries


def _inside(file: Path, root: Path, entries: Entries) -> Entries:
    """The images that do not lead out of their folder."""
    kept = []
    for entry, place in zip(entries, sought(file, root, [str(entry["file_name"]) for entry in entries]), strict=True):
        if is_path_traversal(place):
            number = entry["id"] if isinstance(entry["id"], int | str) else None
            report("image-missing", file, path_traversal_message(file, root, place), number)
        else:
            kept.append(entry)
    return kept


def _once(file: Path, section: str, key: str, entries: Entries) -> Entries:
    """The first of the entries that have the same value."""
    seen: set[str] = set()
    kept = []
    for entry in entries:
        value = str(entry[key])
        if value in seen:
            told = f"{file}: more than one entry of {section} has the {key} {entry[key]!r}"
            report("id-doubled", file, told, entry["id"] if isinstance(entry["id"], int | str) else None)
        else:
            kept.append(entry)
        seen.add(value)
    return kept
