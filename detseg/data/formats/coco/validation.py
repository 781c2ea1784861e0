"""Validation of the entries of a COCO annotation file, which reports all issues and keeps the valid entries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detseg.data.annotations.issues import IssueCollector, shifted
from detseg.data.formats.coco.columns import column, id_column
from detseg.data.formats.coco.paths import lookup_paths, path_traversal_message
from detseg.errors import DataError
from detseg.folders import is_path_traversal

Entries = list[dict[str, Any]]


class Column(NamedTuple):
    """Arguments of ``column`` for a value of entries."""

    dtype: type[np.generic]
    default: Any = None
    shape: tuple[int, ...] = ()


IMAGES = {"id": Column(np.str_), "file_name": Column(np.str_)} | dict.fromkeys(("height", "width"), Column(np.int32, 0))
ANNOTATIONS = {
    "image_id": Column(np.str_),
    "category_id": Column(np.int64),
    "bbox": Column(np.float64, None, (4,)),
    "area": Column(np.float64, np.nan),
    "iscrowd": Column(np.bool_, 0),
}
CATEGORIES = {"id": Column(np.int64), "name": Column(np.str_)}


class Validator:
    """Keeps the valid entries of a file, whose images lie below ``root``, and reports the others."""

    def __init__(self, file: Path, root: Path, issues: IssueCollector) -> None:
        self.file, self.root, self.issues = file, root, issues

    def valid(self, content: dict[str, Entries]) -> dict[str, Entries]:
        """Select the entries that can be read and belong together."""
        file = self.file
        images = self._unique("images", "id", self._inside(self._readable("images", content["images"], IMAGES)))
        categories = self._unique("categories", "id", self._readable("categories", content["categories"], CATEGORIES))
        first: dict[str, int] = {}
        same = {int(entry["id"]): first.setdefault(str(entry["name"]), int(entry["id"])) for entry in categories}
        categories = self._unique("categories", "name", categories)

        annotations = self._readable("annotations", content["annotations"], ANNOTATIONS)
        files = dict(zip(id_column(file, "images", images, "id").tolist(), images, strict=True))
        used: set[int] = set()
        kept = []
        image_ids = id_column(file, "annotations", annotations, "image_id").tolist()
        for entry, image in zip(annotations, image_ids, strict=True):
            number, category = entry.get("id"), int(entry["category_id"])
            used.add(category)
            if image in files and category not in same:
                about = f"annotation {number} ({files[image]['file_name']}) has category_id {category}"
                self._report("category-unknown", f"{about}, which is not in the categories", number)
            else:  # the readers leave out annotations of unknown images
                moved = same.get(category, category) != category
                kept.append(entry | {"category_id": same[category]} if moved else entry)
        if shift := shifted(used, same):
            self._report("off-by-one", f"category_id {shift}")
        return content | {"images": images, "annotations": kept, "categories": categories}

    def _report(self, kind: str, message: str, number: Any = None) -> None:
        self.issues.report(
            kind, self.file, f"{self.file}: {message}", number if isinstance(number, int | str) else None
        )

    def _readable(self, section: str, entries: Entries, columns: Mapping[str, Column]) -> Entries:
        """Keep the entries whose values can all be read."""
        for key, (dtype, default, shape) in columns.items():
            try:
                column(self.file, section, entries, key, dtype, default, shape)
                continue
            except DataError:
                pass
            kept = []
            for position, entry in enumerate(entries):
                try:
                    column(self.file, section, [entry], key, dtype, default, shape)
                    kept.append(entry)
                except DataError as error:
                    message = str(error).replace(f"{section}[0]", f"{section}[{position}]")
                    kind = "box-nan" if key == "bbox" and entry.get("bbox") is not None else "label-broken"
                    self._report(kind, message.removeprefix(f"{self.file}: "), entry.get("id"))
            entries = kept
        return entries

    def _inside(self, entries: Entries) -> Entries:
        """Keep the images that do not lead out of their folder."""
        paths = lookup_paths(self.file, self.root, [str(entry["file_name"]) for entry in entries])
        kept = []
        for entry, path in zip(entries, paths, strict=True):
            if is_path_traversal(path):
                message = path_traversal_message(self.file, self.root, path)
                self._report("image-missing", message.removeprefix(f"{self.file}: "), entry["id"])
            else:
                kept.append(entry)
        return kept

    def _unique(self, section: str, key: str, entries: Entries) -> Entries:
        """Keep the first of the entries with the same value."""
        seen: set[str] = set()
        kept = []
        for entry in entries:
            value = str(entry[key])
            if value in seen:
                message = f"more than one entry of {section} has the {key} {entry[key]!r}"
                self._report("id-doubled", message, entry["id"])
            else:
                kept.append(entry)
            seen.add(value)
        return kept
