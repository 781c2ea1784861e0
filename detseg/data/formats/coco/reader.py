"""COCO annotation files: the reader."""

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
from detseg.data.annotations.detection import DetectionAnnotations, pack
from detseg.data.annotations.images import image_size
from detseg.data.annotations.issues import collects, shifted
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.coco.columns import (
    Entries,
    Gathering,
    Objects,
    column,
    id_column,
    with_packed_masks,
    without_masks,
)
from detseg.data.formats.coco.json_stream import read_lists
from detseg.data.formats.layout import resolve_paths
from detseg.errors import DataError

log = logging.getLogger(__name__)

SECTIONS = ("images", "annotations", "categories")

Content = dict[str, Any]  # a list of entries for each of the sections, or of annotations what they became


@contextmanager
def without_collection() -> Iterator[None]:
    """Keep the collector of cycles from walking what is read again and again: JSON has no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_coco(file: Path, images: Path, masks: MaskReading = "none") -> DetectionAnnotations:
    """Read a COCO annotation file whose ``file_name`` are relative to the folder ``images``.

    Images come in the order of their ids, objects in the order of the file, classes in the order of their ids. Large
    files are read once, and then taken from a cache. Raises DataError, naming file and entry, for whatever is missing
    or broken; ``masks`` says whether masks are.
    """
    found = cached(file, [str(images), masks], lambda: _read(file, images, masks))
    if count := int(found.difficult.sum()):
        log.info("%s: %d objects are difficult: 1, and are not trained on", file, count)
    names = found.files.tolist()
    places = resolve_paths(file, images, names)  # again, as images may have been moved since a cache was made
    return found if places == names else replace(found, files=np.array(places, dtype=np.str_))


@without_collection()
def _read(file: Path, images: Path, masks: MaskReading) -> tuple[DetectionAnnotations, bool]:
    """What ``read_coco`` returns, and whether the file alone says it: no image had to be looked for or measured."""
    content = (None if collects() else _in_pieces(file, masks)) or _at_once(file, images, masks)
    image_ids, files, sizes, lasting = _images(file, images, content.pop("images"))
    objects, rows = _listed(file, content.pop("annotations"), image_ids, masks)
    classes, category_ids = _classes(file, content["categories"], set(np.unique(objects.categories).tolist()))
    labels = _labels(file, objects.ids, objects.categories, category_ids)
    lasting = lasting and bool((sizes > 0).all())
    complete = _complete(sizes, files, images)
    packed, reasons = (None, {}) if masks == "none" else objects.masks(complete[rows])
    found = pack(
        file,
        classes=classes,
        category_ids=category_ids,
        root=images,
        files=files,
        image_ids=image_ids,
        sizes=complete,
        rows=rows,
        boxes=objects.boxes,
        labels=labels,
        areas=objects.areas,
        crowd=objects.crowd,
        difficult=objects.difficult,
        ids=objects.ids,
        masks=packed,
    )
    return found.with_masks(masks, reasons), lasting


def _images(
    file: Path, images: Path, pictures: Entries
) -> tuple[NDArray[Any], NDArray[np.str_], NDArray[np.int32], bool]:
    """Ids (I,) in their order, files (I,), sizes (I, 2) as far as given, and whether names say where all files lie."""
    image_ids = id_column(file, "images", pictures, "id")
    order = np.argsort(image_ids, kind="stable")
    image_ids = image_ids[order]
    if len(twice := image_ids[1:][image_ids[1:] == image_ids[:-1]]):
        raise DataError(f"{file}: more than one image has the id {twice[0]}")
    names = column(file, "images", pictures, "file_name", np.str_).tolist()
    places = resolve_paths(file, images, names)
    sizes = [column(file, "images", pictures, key, np.int32, default=0) for key in ("height", "width")]
    return image_ids, np.array(places, dtype=np.str_)[order], np.stack(sizes, axis=1)[order], places == names


def _in_pieces(file: Path, masks: MaskReading) -> Content | None:
    """What a file holds, its annotations as ``Objects``; None for a file with which anything is wrong or unusual."""
    pictures: Entries = []
    categories: Entries = []
    gathering = Gathering(file, masks != "none")
    seen = set()
    try:
        for section, entries in read_lists(file, SECTIONS):
            seen.add(section)
            if not _objects(entries):
                return None
            if section == "annotations":
                gathering.add(entries)
            elif section == "images":
                pictures += map(_picture, entries)
            else:
                categories += entries
        if seen != set(SECTIONS):
            return None
        return {"images": pictures, "annotations": gathering.objects(), "categories": categories}
    except (OSError, ValueError, RecursionError, DataError):
        return None


def _at_once(file: Path, images: Path, masks: MaskReading) -> dict[str, Entries]:
    """What a file holds, its annotations as they are: it takes more memory, and errors can say what is wrong."""
    content = load(file, without_masks if masks == "none" else with_packed_masks)
    content["images"] = [*map(_picture, content["images"])]
    if collects():
        from detseg.data.formats.coco.validation import sound

        content = sound(file, images, content)
    return content


def _listed(
    file: Path, annotations: Entries | Objects, image_ids: NDArray[Any], masks: MaskReading
) -> tuple[Objects, NDArray[np.int64]]:
    """The annotations of images that the file lists, with the place of each one's id among the sorted ``image_ids``."""
    if isinstance(annotations, Objects):
        pictured = annotations.images
    else:
        pictured = id_column(file, "annotations", annotations, "image_id")
    rows = np.searchsorted(image_ids, pictured).clip(0, max(len(image_ids) - 1, 0))
    known = image_ids[rows] == pictured if len(image_ids) else np.zeros(len(pictured), dtype=bool)
    if len(known) and not known.any():
        example = f"{pictured[0].item()!r}, the images {image_ids[0].item()!r}" if len(image_ids) else "any, no images"
        raise DataError(
            f"{file}: no annotation is of an image that it lists: annotations have image_id such as {example}; "
            "make them the same numbers or texts"
        )
    if not known.all():
        log.warning("%s: left out %d annotations of images it does not list", file, (~known).sum())
    if isinstance(annotations, Objects):
        return annotations if known.all() else annotations.where(known), rows[known]
    gathering = Gathering(file, masks != "none")
    gathering.add([*compress(annotations, known)])
    return gathering.objects(), rows[known]


def _labels(
    file: Path, ids: NDArray[np.int64], categories: NDArray[np.int64], category_ids: tuple[int, ...]
) -> NDArray[np.int64]:
    """The place of each category among the ``category_ids``. Raises DataError for one that is not there."""
    labels = np.searchsorted(category_ids, categories).clip(0, max(len(category_ids) - 1, 0))
    for i in np.flatnonzero(np.asarray(category_ids)[labels] != categories)[:1]:
        shift = shifted(categories.tolist(), category_ids)
        told = f"; {shift}" if shift else ""
        raise DataError(
            f"{file}: annotation {ids[i]} has category_id {categories[i]}, which is not in the categories{told}"
        )
    return labels


def load(file: Path, change: Callable[[list[dict[str, Any]]], None]) -> dict[str, list[dict[str, Any]]]:
    """Parse an annotation file, its annotations changed in place as soon as some are read. Raises DataError."""
    content: dict[str, list[dict[str, Any]]] = {}
    try:
        for section, entries in read_lists(file, SECTIONS):
            if section == "annotations" and _objects(entries):
                change(entries)
            content.setdefault(section, []).extend(entries)
    except OSError as error:
        raise DataError(f"{file}: cannot read this annotation file: {error.strerror}") from None
    except (ValueError, RecursionError):  # rare: all at once takes more memory, and says what is wrong
        content = _load_at_once(file, change)
    for section in SECTIONS:
        found = content.get(section) if isinstance(content, dict) else None
        if not isinstance(found, list) or not _objects(found):
            raise DataError(f"{file}: not a COCO annotation file: it has no list of '{section}'")
    return content


def _load_at_once(file: Path, change: Callable[[list[dict[str, Any]]], None]) -> Any:
    """Parse a file of any JSON. Raises DataError where it is none."""
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: broken JSON: {error}") from None
    entries = content.get("annotations") if isinstance(content, dict) else None
    if isinstance(entries, list) and _objects(entries):
        change(entries)
    return content


def _objects(entries: list[Any]) -> bool:
    return {*map(type, entries)} <= {dict}


def _picture(entry: dict[str, Any]) -> dict[str, Any]:
    """What is needed of the entry of an image.

    LVIS has file names as the end of an address: COCO's folder, and the name in it.
    """
    found: dict[str, Any] = {key: entry[key] for key in ("id", "file_name", "height", "width") if key in entry}
    if "file_name" not in entry and isinstance(entry.get("coco_url"), str):
        found["file_name"] = "/".join(entry["coco_url"].split("/")[-2:])
    return found


def _classes(file: Path, categories: list[dict[str, Any]], used: set[int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and ids, in the order of ids, without a placeholder of id 0 that stands for the background or for all."""
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
    return tuple(name for _, name in classes), tuple(number for number, _ in classes)


def _complete(sizes: NDArray[np.int32], files: NDArray[np.str_], images: Path) -> NDArray[np.int32]:
    """Read from the images the sizes that the annotations do not give."""
    for row in np.flatnonzero((sizes <= 0).any(axis=1)):
        sizes[row] = image_size(images / str(files[row]))
    return sizes
