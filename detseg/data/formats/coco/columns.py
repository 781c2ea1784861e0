"""Annotations of a COCO file as columns, built from a few entries at a time: as dicts, all would take gigabytes."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.builder import rotated_boxes
from detseg.data.annotations.masks import NONE, POLYGONS, RLE, Masks, append, pack_many, pack_rle
from detseg.data.formats.layout import read_flag
from detseg.errors import DataError

NO_ID = -1
RENEWED = ("id-renewed", "{} annotations have no id, or that of another one, and get new ones")
POSED = ("label-unused", "the key points of {} objects are not read")
UNCLEAR = ("flag-unknown", "{} annotations have difficult or ignore that is neither true nor false")
FLAT = ("area-renewed", "{} annotations have an area of 0 or less, and get that of their box or mask")

Entries = list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Objects:
    """The annotations of a file, one row each in the order of the file."""

    images: NDArray[Any]  # (N,) ids of their images: int64, or text
    ids: NDArray[np.int64]  # (N,)
    categories: NDArray[np.int64]  # (N,)
    boxes: NDArray[np.float64]  # (N, 4) xyxy
    areas: NDArray[np.float64]  # (N,) NaN where none is given
    crowd: NDArray[np.bool_]  # (N,)
    difficult: NDArray[np.bool_]  # (N,) VOC's, converted
    byte_ranges: NDArray[np.int64]  # (N, 2) of the polygons in ``data``; both 0 where the mask is something else
    data: bytearray
    counts: Counter[tuple[str, str]]  # changed annotations by kind of issue and message, with {} for their number
    rotated: NDArray[np.bool_]  # (N,) boxes that were around an object before it was rotated
    others: dict[int, Any]  # by row: input of ``packed_mask``, which needs the size of the image

    def where(self, kept: NDArray[np.bool_]) -> Objects:
        """Keep the rows for which ``kept`` (N,) is true."""
        places = np.cumsum(kept) - 1
        return replace(
            self,
            images=self.images[kept],
            ids=self.ids[kept],
            categories=self.categories[kept],
            boxes=self.boxes[kept],
            areas=self.areas[kept],
            crowd=self.crowd[kept],
            difficult=self.difficult[kept],
            byte_ranges=self.byte_ranges[kept],
            rotated=self.rotated[kept],
            others={int(places[row]): value for row, value in self.others.items() if kept[row]},
        )

    def masks(self, sizes: NDArray[np.int32]) -> tuple[Masks, dict[int, str]]:
        """Build the masks in images of ``sizes`` (N, 2), and the reasons by annotation id why some cannot be used."""
        mask_types = np.full(len(self.ids), POLYGONS, dtype=np.uint8)
        contents, reasons = [], {}
        for row, value in self.others.items():
            try:
                mask_types[row], content = packed_mask(value, *sizes[row].tolist())
            except ValueError as error:
                mask_types[row], content = NONE, b""
                reasons[int(self.ids[row])] = str(error)
            contents.append(content)
        spans = self.byte_ranges.copy()
        spans[[*self.others]] = append(self.data, contents)
        return Masks(mask_types, spans, np.frombuffer(self.data, dtype=np.uint8)), reasons


class ObjectCollector:
    """Collects entries as they are read, and builds their ``Objects`` at the end."""

    def __init__(self, file: Path, masks: bool) -> None:
        self.file, self.masks = file, masks
        self.parts: list[tuple[NDArray[Any], ...]] = []
        self.data, self.others = bytearray(), dict[int, Any]()
        self.count, self.counts = 0, Counter[tuple[str, str]]()

    def add(self, entries: Entries) -> None:
        """Add entries, with their masks if these are read.

        Raises DataError, naming the entry by its position among these, for a value that is missing or broken.
        """
        file = self.file
        images = id_column(file, "annotations", entries, "image_id")
        numbers = _ids(file, entries)
        categories = column(file, "annotations", entries, "category_id", np.int64)
        boxes = column(file, "annotations", entries, "bbox", np.float64, shape=(4,))
        areas = column(file, "annotations", entries, "area", np.float64, default=np.nan)
        flat = areas <= 0
        areas[flat] = np.nan
        self.counts[FLAT] += int(flat.sum())
        crowd = column(file, "annotations", entries, "iscrowd", np.bool_, default=0)
        difficult = np.array([("difficult" in one or "ignore" in one) and self._excluded(one) for one in entries], bool)
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        angles = np.array([rotation(entry) if "attributes" in entry else 0 for entry in entries], dtype=np.float64)
        rotated = angles % 360 != 0
        boxes[rotated] = rotated_boxes(boxes[rotated], angles[rotated])
        spans = self._add_masks(entries) if self.masks else np.zeros((len(entries), 2), dtype=np.int64)
        self.parts.append((images, numbers, categories, boxes, areas, crowd, difficult, spans, rotated))
        self.count += len(entries)
        self.counts[POSED] += sum("keypoints" in entry for entry in entries)

    def _excluded(self, entry: dict[str, Any]) -> bool:
        """Tell if an annotation is difficult, or is to be ignored; count flags without a meaning."""
        flags = [read_flag(entry.get(key)) for key in ("difficult", "ignore")]
        self.counts[UNCLEAR] += None in flags
        return any(flags)

    def _add_masks(self, entries: Entries) -> NDArray[np.int64]:
        values = [entry.get("segmentation") for entry in entries]
        polygons = [row for row, value in enumerate(values) if type(value) is list]
        content, places, errors = pack_many([values[row] for row in polygons])
        for number, error in errors.items():
            values[polygons[number]] = error
        self.others |= {self.count + row: value for row, value in enumerate(values) if type(value) is not list}
        spans = np.zeros((len(values), 2), dtype=np.int64)
        spans[polygons] = len(self.data) + places
        self.data += content
        return spans

    def objects(self) -> Objects:
        """Build the columns. Raises ValueError if some image ids are numbers and others text."""
        if len({images.dtype.kind for images, *_ in self.parts}) != 1:
            raise ValueError("ids of images that are numbers here and text there")
        images, numbers, categories, boxes, areas, crowd, difficult, spans, rotated = (
            np.concatenate(parts) for parts in zip(*self.parts, strict=True)
        )
        _, first = np.unique(numbers, return_index=True)
        new = np.ones(len(numbers), dtype=bool)
        new[first] = False
        new |= numbers == NO_ID
        if new.any():
            numbers[new] = max(0, numbers.max()) + np.arange(1, new.sum() + 1)
        self.counts[RENEWED] = int(new.sum())
        columns = (images, numbers, categories, boxes, areas, crowd, difficult, spans)
        return Objects(*columns, self.data, self.counts, rotated, self.others)


def without_masks(entries: Entries) -> None:
    """Drop the masks of annotations, which are most of a file."""
    for entry in entries:
        entry.pop("segmentation", None)


def with_packed_masks(entries: Entries) -> None:
    """Pack the polygons of annotations: as lists of numbers they would take many times the memory."""
    polygons = [entry for entry in entries if isinstance(entry.get("segmentation"), list)]
    content, spans, errors = pack_many([entry["segmentation"] for entry in polygons])
    for row, (entry, (start, end)) in enumerate(zip(polygons, spans.tolist(), strict=True)):
        entry["segmentation"] = errors[row] if row in errors else content[start:end]


def packed_mask(segmentation: Any, height: int, width: int) -> tuple[int, bytes]:
    """Convert the result of ``with_packed_masks`` in an image of this size to a mask type and its bytes.

    Raises ValueError, with the reason, for a broken mask.
    """
    if isinstance(segmentation, bytes):
        return POLYGONS, segmentation
    if isinstance(segmentation, dict):
        return RLE, pack_rle(segmentation.get("counts"), segmentation.get("size"), height, width)
    raise segmentation if isinstance(segmentation, ValueError) else ValueError(f"has segmentation = {segmentation!r}")


def column(
    file: Path,
    section: str,
    entries: list[dict[str, Any]],
    key: str,
    dtype: type[np.generic],
    default: Any = None,
    shape: tuple[int, ...] = (),
) -> NDArray[Any]:
    """Take one value of each entry. Raises DataError, naming the first entry where it is missing or invalid."""

    def convert(entries: list[dict[str, Any]]) -> NDArray[Any]:
        values: Any = [entry.get(key) for entry in entries]
        types = {*map(type, values)}
        if NoneType in types:
            if default is None:
                raise ValueError("missing")
            values = [default if value is None else value for value in values]
        if not shape and types & {list, dict}:
            raise ValueError("not one value")
        if dtype is np.bool_ and not types <= {int, bool}:
            values = [read_flag(value) for value in values]
            if None in values:
                raise ValueError("neither true nor false")
        if types == {list} and {*map(len, values)} == {*shape}:  # the usual case, many times as fast
            values = np.fromiter(chain.from_iterable(values), dtype=dtype, count=len(values) * shape[0])
        array = np.array(values, dtype=dtype).reshape(len(entries), *shape)
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


def id_column(file: Path, section: str, entries: list[dict[str, Any]], key: str) -> NDArray[Any]:
    """Take image ids, which are numbers in COCO and text in some files."""
    numbers = {type(entry.get(key)) for entry in entries} <= {int, bool}
    return column(file, section, entries, key, np.int64 if numbers else np.str_)


def _ids(file: Path, entries: Entries) -> NDArray[np.int64]:
    """Take the ids of annotations, or NO_ID where they are no numbers: they are bookkeeping."""
    try:
        return column(file, "annotations", entries, "id", np.int64)
    except DataError:
        values = [entry.get("id") for entry in entries]
        return np.array([value if type(value) is int and 0 <= value < 2**62 else NO_ID for value in values], np.int64)


def rotation(entry: dict[str, Any]) -> float:
    """Return the degrees by which CVAT rotates the box of an annotation."""
    attributes = entry["attributes"]
    angle = attributes.get("rotation") if isinstance(attributes, dict) else None
    return float(angle) if isinstance(angle, int | float) and math.isfinite(angle) else 0
