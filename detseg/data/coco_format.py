"""COCO annotation files: the reader."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotation_cache import cached
from detseg.data.annotations import Annotations, pack
from detseg.data.images import image_size
from detseg.data.json_lists import read_lists
from detseg.data.layout import located
from detseg.data.masks import NONE, POLYGONS, RUNS, MaskReading, Masks, pack_many, pack_masks, pack_runs
from detseg.data.reports import collects, shifted
from detseg.errors import DataError

log = logging.getLogger(__name__)

Split = Literal["train", "val"]

SECTIONS = ("images", "annotations", "categories")


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


def read_coco(file: Path, images: Path, masks: MaskReading = "none") -> Annotations:
    """Read a COCO annotation file whose ``file_name`` are relative to the folder ``images``.

    Images come in the order of their ids, objects in the order of the file, classes in the order of their ids. Large
    files are read once, and then taken from a cache. Raises DataError, naming file and entry, for whatever is missing
    or broken; ``masks`` says whether masks are.
    """
    found = cached(file, [str(images), masks], lambda: _read(file, images, masks))
    if count := int(found.difficult.sum()):
        log.info("%s: %d objects are difficult: 1, and are not trained on", file, count)
    names = found.files.tolist()
    places = located(file, images, names)  # again, as images may have been moved since a cache was made
    return found if places == names else replace(found, files=np.array(places, dtype=np.str_))


@without_collection()
def _read(file: Path, images: Path, masks: MaskReading) -> tuple[Annotations, bool]:
    """What ``read_coco`` returns, and whether the file alone says it: no image had to be looked for or measured."""
    content = load(file, without_masks if masks == "none" else with_packed_masks)
    _name_by_address(content["images"])
    if collects():
        from detseg.data.coco_faults import sound

        content = sound(file, images, content)
    pictures = content["images"]
    image_ids = _ids(file, "images", pictures, "id")
    order = np.argsort(image_ids, kind="stable")
    image_ids = image_ids[order]
    if len(twice := image_ids[1:][image_ids[1:] == image_ids[:-1]]):
        raise DataError(f"{file}: more than one image has the id {twice[0]}")
    names = _column(file, "images", pictures, "file_name", np.str_).tolist()
    places = located(file, images, names)
    files = np.array(places, dtype=np.str_)[order]
    sizes = [_column(file, "images", pictures, key, np.int32, default=0)[order] for key in ("height", "width")]

    annotations, rows = _listed(file, content["annotations"], image_ids)
    ids = _column(file, "annotations", annotations, "id", np.int64)
    categories = _column(file, "annotations", annotations, "category_id", np.int64)
    classes, category_ids = _classes(file, content["categories"], set(np.unique(categories).tolist()))
    labels = _labels(file, ids, categories, category_ids)
    boxes = _column(file, "annotations", annotations, "bbox", np.float64, shape=(4,))
    given = np.stack(sizes, axis=1)
    lasting = places == names and bool((given > 0).all())
    complete = _complete(given, files, images)
    packed, reasons = (None, {}) if masks == "none" else _masks(annotations, ids, complete[rows])
    found = pack(
        file,
        classes=classes,
        category_ids=category_ids,
        root=images,
        files=files,
        image_ids=image_ids,
        sizes=complete,
        rows=rows,
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        labels=labels,
        areas=_column(file, "annotations", annotations, "area", np.float64, default=np.nan),
        crowd=_column(file, "annotations", annotations, "iscrowd", np.int64, default=0) > 0,
        difficult=np.array([_is_set(entry.get("difficult")) for entry in annotations], dtype=bool),  # VOC's, converted
        ids=ids,
        masks=packed,
    )
    return found.with_masks(masks, reasons), lasting


def _listed(
    file: Path, annotations: list[dict[str, Any]], image_ids: NDArray[Any]
) -> tuple[list[dict[str, Any]], NDArray[np.int64]]:
    """The annotations of images that the file lists, with the place of each one's id among the sorted ``image_ids``."""
    pictured = _ids(file, "annotations", annotations, "image_id")
    rows = np.searchsorted(image_ids, pictured).clip(0, max(len(image_ids) - 1, 0))
    known = image_ids[rows] == pictured if len(image_ids) else np.zeros(len(annotations), dtype=bool)
    if len(known) and not known.any():
        example = f"{pictured[0].item()!r}, the images {image_ids[0].item()!r}" if len(image_ids) else "any, no images"
        raise DataError(
            f"{file}: no annotation is of an image that it lists: annotations have image_id such as {example}; "
            "make them the same numbers or texts"
        )
    if known.all():
        return annotations, rows
    log.warning("%s: left out %d annotations of images it does not list", file, (~known).sum())
    return [entry for entry, kept in zip(annotations, known, strict=True) if kept], rows[known]


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


def without_masks(entries: list[dict[str, Any]]) -> None:
    """Forget the masks of annotations: they are most of a file."""
    for entry in entries:
        entry.pop("segmentation", None)


def with_packed_masks(entries: list[dict[str, Any]]) -> None:
    """Pack the polygons of annotations: as lists of numbers they would take many times the memory."""
    polygons = [entry for entry in entries if isinstance(entry.get("segmentation"), list)]
    packed = pack_many([entry["segmentation"] for entry in polygons])
    for entry, found in zip(polygons, packed, strict=True):
        entry["segmentation"] = found


def _masks(
    entries: list[dict[str, Any]], ids: NDArray[np.int64], sizes: NDArray[np.int32]
) -> tuple[Masks, dict[int, str]]:
    """The masks of annotations whose images have ``sizes`` (N, 2), and by id what is wrong with some."""
    found = [entry.get("segmentation") for entry in entries]
    packed = [(POLYGONS, one) if isinstance(one, bytes) else (NONE, b"") for one in found]
    reasons = {}
    for row in [row for row, one in enumerate(found) if not isinstance(one, bytes)]:
        try:
            packed[row] = packed_mask(found[row], *sizes[row].tolist())
        except ValueError as error:
            reasons[int(ids[row])] = str(error)
    return pack_masks(packed), reasons


def packed_mask(segmentation: Any, height: int, width: int) -> tuple[int, bytes]:
    """What ``with_packed_masks`` has left of a mask in an image of this size, as a kind and its bytes.

    Raises ValueError, saying what is wrong, for one that is broken.
    """
    if isinstance(segmentation, bytes):
        return POLYGONS, segmentation
    if isinstance(segmentation, dict):
        return RUNS, pack_runs(segmentation.get("counts"), segmentation.get("size"), height, width)
    raise segmentation if isinstance(segmentation, ValueError) else ValueError(f"has segmentation = {segmentation!r}")


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


def _column(
    file: Path,
    section: str,
    entries: list[dict[str, Any]],
    key: str,
    dtype: type[np.generic],
    default: Any = None,
    shape: tuple[int, ...] = (),
) -> NDArray[Any]:
    """Take one value of each entry; DataError names the first entry where it is missing or of another kind."""

    def convert(entries: list[dict[str, Any]]) -> NDArray[Any]:
        values = [entry.get(key) for entry in entries]
        if None in values:
            if default is None:
                raise ValueError("missing")
            values = [default if value is None else value for value in values]
        if not shape and {list, dict} & {*map(type, values)}:
            raise ValueError("not one value")
        array = np.array(values, dtype=dtype).reshape(len(values), *shape)
        if default is None and dtype is np.float64 and not np.isfinite(array).all():
            raise ValueError("not a number")
        return array

    try:
        return convert(entries)
    except (ValueError, TypeError, OverflowError):
        for position, entry in enumerate(entries):
            try:
                convert([entry])
            except (ValueError, TypeError, OverflowError):
                name = f"{section}[{position}] (id {entry.get('id')})"
                raise DataError(f"{file}: {name} has {key} = {entry.get(key)!r}") from None
        raise


def _is_set(value: Any) -> bool:
    """Whether a flag that is not of COCO is a number above 0: other people may mean anything by its name."""
    try:
        return value is not None and float(value) > 0
    except (TypeError, ValueError, OverflowError):
        return False


def _name_by_address(pictures: list[dict[str, Any]]) -> None:
    """Give images their file names, which LVIS has as the end of an address: COCO's folder, and the name in it."""
    for entry in pictures:
        if "file_name" not in entry and isinstance(entry.get("coco_url"), str):
            entry["file_name"] = "/".join(entry["coco_url"].split("/")[-2:])


def _ids(file: Path, section: str, entries: list[dict[str, Any]], key: str) -> NDArray[Any]:
    """Image ids, which are numbers in COCO and text in some other people's files."""
    numbers = {type(entry.get(key)) for entry in entries} <= {int, bool}
    return _column(file, section, entries, key, np.int64 if numbers else np.str_)


def _classes(file: Path, categories: list[dict[str, Any]], used: set[int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and ids, in the order of ids, without a placeholder of id 0 that stands for the background or for all."""
    ids = _column(file, "categories", categories, "id", np.int64).tolist()
    names = _column(file, "categories", categories, "name", np.str_).tolist()
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
