"""Reader of COCO annotation files."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.cache import cached
from detseg.data.annotations.detection import DetectionAnnotations, ImageColumns, ObjectColumns, from_columns
from detseg.data.annotations.images import ImageSizes, Orientation
from detseg.data.annotations.issues import FAIL_FAST, FailFastSummary, IssueCollector, shifted
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.coco.columns import (
    Entries,
    ObjectCollector,
    Objects,
    column,
    id_column,
    with_packed_masks,
    without_masks,
)
from detseg.data.formats.coco.json_stream import read_lists
from detseg.data.formats.coco.paths import resolve_paths
from detseg.errors import DataError

log = logging.getLogger(__name__)

SECTIONS = ("images", "annotations", "categories")

Content = dict[str, Any]  # a list of entries for each section, or ``Objects`` for annotations


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Disable the garbage collector while parsing: JSON objects contain no reference cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_coco(
    file: Path,
    images: Path,
    masks: MaskReading = "none",
    issues: IssueCollector = FAIL_FAST,
    orientation: Orientation = "shown",
) -> DetectionAnnotations:
    """Read a COCO annotation file whose ``file_name`` are relative to the folder ``images``.

    Images come in the order of their ids, objects in the order of the file, classes in the order of their ids. Large
    files are read once, and then taken from a cache, unless ``issues`` collects. Raises DataError, naming file and
    entry, for missing or broken labels; ``masks`` tells which masks are read.
    """
    if issues.collects:
        table, _ = _read(file, ImageSizes(images, issues, orientation), masks)
    else:
        table = cached(file, [str(images), masks], lambda: _read_and_log(file, images, masks, orientation))
    if count := int(table.difficult.sum()):
        log.info("%s: %d objects are difficult or to be ignored, and are not trained on", file, count)
    names = table.files.tolist()
    paths = resolve_paths(file, images, names)  # again, as images may have been moved since a cache was made
    return table if paths == names else replace(table, files=np.array(paths, dtype=np.str_))


def _read_and_log(
    file: Path, images: Path, masks: MaskReading, orientation: Orientation
) -> tuple[DetectionAnnotations, bool]:
    """Read as ``_read``, and log warnings at once, as a cache keeps those that are logged."""
    summary = FailFastSummary()
    result = _read(file, ImageSizes(images, summary, orientation), masks)
    summary.log(file)
    return result


@without_garbage_collection()
def _read(file: Path, image_sizes: ImageSizes, masks: MaskReading) -> tuple[DetectionAnnotations, bool]:
    """Read as ``read_coco``; tell if the result depends on the file alone, without searching or measuring images."""
    images, issues = image_sizes.root, image_sizes.issues
    content = (None if issues.collects else _in_pieces(file, masks)) or _at_once(file, images, masks, issues)
    image_ids, files, sizes, cacheable = _images(file, images, content.pop("images"))
    objects, rows = _listed(file, content.pop("annotations"), image_ids, masks, issues)
    for (kind, message), count in objects.counts.items():
        if count:
            issues.report(kind, file, f"{file}: {message.format(count)}")
    for row in np.flatnonzero(objects.rotated).tolist():
        message = f"{file}: annotation {objects.ids[row]} is rotated, and becomes the box around it"
        issues.report("shape-unsupported", file, message, int(objects.ids[row]))
    category_ids = _classes(file, content["categories"], set(np.unique(objects.categories).tolist()))
    labels = _labels(file, objects.ids, objects.categories, tuple(category_ids.values()))
    cacheable = cacheable and bool((sizes > 0).all())
    for row in np.flatnonzero((sizes <= 0).any(axis=1)).tolist():  # sizes that the file does not give
        sizes[row] = image_sizes.read(str(files[row]))
    image_sizes.report(file, files[rows].tolist(), objects.boxes)
    packed, reasons = (None, {}) if masks == "none" else objects.masks(sizes[rows])
    table = from_columns(
        file,
        category_ids,
        ImageColumns(root=images, files=files, ids=image_ids, sizes=sizes),
        ObjectColumns(
            image_index=rows,
            boxes=objects.boxes,
            labels=labels,
            areas=objects.areas,
            crowd=objects.crowd,
            difficult=objects.difficult,
            ids=objects.ids,
            masks=packed,
        ),
        issues,
    )
    return table.with_masks(masks, reasons, issues), cacheable


def _images(
    file: Path, images: Path, entries: Entries
) -> tuple[NDArray[Any], NDArray[np.str_], NDArray[np.int32], bool]:
    """Return ids (I,) in their order, files (I,), sizes (I, 2) as far as given, and if the names are the files."""
    image_ids = id_column(file, "images", entries, "id")
    order = np.argsort(image_ids, kind="stable")
    image_ids = image_ids[order]
    if len(twice := image_ids[1:][image_ids[1:] == image_ids[:-1]]):
        raise DataError(f"{file}: more than one image has the id {twice[0]}")
    names = column(file, "images", entries, "file_name", np.str_).tolist()
    paths = resolve_paths(file, images, names)
    sizes = [column(file, "images", entries, key, np.int32, default=0) for key in ("height", "width")]
    return image_ids, np.array(paths, dtype=np.str_)[order], np.stack(sizes, axis=1)[order], paths == names


def _in_pieces(file: Path, masks: MaskReading) -> Content | None:
    """Read a file, with ``Objects`` for its annotations; None for a file with anything broken or unusual."""
    images: Entries = []
    categories: Entries = []
    collector = ObjectCollector(file, masks != "none")
    seen = set()
    try:
        for section, entries in read_lists(file, SECTIONS):
            seen.add(section)
            if not _are_objects(entries):
                return None
            if section == "annotations":
                collector.add(entries)
            elif section == "images":
                images += map(_image_entry, entries)
            else:
                categories += entries
        if seen != set(SECTIONS):
            return None
        return {"images": images, "annotations": collector.objects(), "categories": categories}
    except (OSError, ValueError, RecursionError, DataError):
        return None


def _at_once(file: Path, images: Path, masks: MaskReading, issues: IssueCollector) -> dict[str, Entries]:
    """Read a file with its annotations as they are: this takes more memory, and errors can name the entry."""
    content = load(file, without_masks if masks == "none" else with_packed_masks)
    content["images"] = [*map(_image_entry, content["images"])]
    if issues.collects:
        from detseg.data.formats.coco.validation import Validator

        content = Validator(file, images, issues).valid(content)
    return content


def _listed(
    file: Path,
    annotations: Entries | Objects,
    image_ids: NDArray[Any],
    masks: MaskReading,
    issues: IssueCollector,
) -> tuple[Objects, NDArray[np.int64]]:
    """Select the annotations of listed images, with the position of each one's image in the sorted ``image_ids``."""
    if isinstance(annotations, Objects):
        of_images = annotations.images
    else:
        of_images = id_column(file, "annotations", annotations, "image_id")
    rows = np.searchsorted(image_ids, of_images).clip(0, max(len(image_ids) - 1, 0))
    known = image_ids[rows] == of_images if len(image_ids) else np.zeros(len(of_images), dtype=bool)
    if len(known) and not known.any():
        example = f"{of_images[0].item()!r}, the images {image_ids[0].item()!r}" if len(image_ids) else "any, no images"
        raise DataError(
            f"{file}: no annotation is of an image that it lists: annotations have image_id such as {example}; "
            "make them the same numbers or texts"
        )
    for row in np.flatnonzero(~known).tolist():
        message = f"{file}: annotations[{row}] is of image {of_images[row].item()!r}, which is not listed"
        issues.report("image-unknown", file, message, row)
    if isinstance(annotations, Objects):
        return annotations if known.all() else annotations.where(known), rows[known]
    collector = ObjectCollector(file, masks != "none")
    collector.add([*compress(annotations, known)])
    return collector.objects(), rows[known]


def _labels(
    file: Path, ids: NDArray[np.int64], categories: NDArray[np.int64], category_ids: tuple[int, ...]
) -> NDArray[np.int64]:
    """Find the position of each category in the ``category_ids``. Raises DataError for an unknown one."""
    labels = np.searchsorted(category_ids, categories).clip(0, max(len(category_ids) - 1, 0))
    for i in np.flatnonzero(np.asarray(category_ids)[labels] != categories)[:1]:
        shift = shifted(categories.tolist(), category_ids)
        hint = f"; {shift}" if shift else ""
        raise DataError(
            f"{file}: annotation {ids[i]} has category_id {categories[i]}, which is not in the categories{hint}"
        )
    return labels


def load(file: Path, change: Callable[[list[dict[str, Any]]], None]) -> dict[str, list[dict[str, Any]]]:
    """Parse an annotation file; ``change`` edits its annotations in place, in pieces. Raises DataError."""
    content: dict[str, list[dict[str, Any]]] = {}
    try:
        for section, entries in read_lists(file, SECTIONS):
            if section == "annotations" and _are_objects(entries):
                change(entries)
            content.setdefault(section, []).extend(entries)
    except OSError as error:
        raise DataError(f"{file}: cannot read this annotation file: {error.strerror}") from None
    except (ValueError, RecursionError):  # rare: parsing all at once takes more memory, and finds the error
        content = _load_at_once(file, change)
    for section in SECTIONS:
        listed: Any = content.get(section) if isinstance(content, dict) else None
        if not isinstance(listed, list) or not _are_objects(listed):
            raise DataError(f"{file}: not a COCO annotation file: it has no list of '{section}'")
    return content


def _load_at_once(file: Path, change: Callable[[list[dict[str, Any]]], None]) -> Any:
    """Parse any JSON file. Raises DataError."""
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: broken JSON: {error}") from None
    entries = content.get("annotations") if isinstance(content, dict) else None
    if isinstance(entries, list) and _are_objects(entries):
        change(entries)
    return content


def _are_objects(entries: list[Any]) -> bool:
    return {*map(type, entries)} <= {dict}


def _image_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """Keep the needed keys of the entry of an image.

    LVIS gives file names as the end of a URL: COCO's folder, and the name in it.
    """
    kept: dict[str, Any] = {key: entry[key] for key in ("id", "file_name", "height", "width") if key in entry}
    if "file_name" not in entry and isinstance(entry.get("coco_url"), str):
        kept["file_name"] = "/".join(entry["coco_url"].split("/")[-2:])
    return kept


def _classes(file: Path, categories: list[dict[str, Any]], used: set[int]) -> dict[str, int]:
    """Map class names to ids, in the order of ids, without a placeholder of id 0 for the background or for all."""
    ids = column(file, "categories", categories, "id", np.int64).tolist()
    names = column(file, "categories", categories, "name", np.str_).tolist()
    parents = {str(entry.get("supercategory")) for entry in categories if entry.get("id") != 0}
    classes = sorted(
        (number, name)
        for number, name in zip(ids, names, strict=True)
        if number != 0 or number in used or not (name in parents or name.strip("_").lower() == "background")
    )
    if not classes:
        raise DataError(f"{file}: it has no categories")
    for values in zip(*classes, strict=True):
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise DataError(f"{file}: more than one category has the name or id {twice!r}; make them differ")
    return {name: number for number, name in classes}
