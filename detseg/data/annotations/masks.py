"""Masks of the objects of a data set as polygons and RLE, packed in one array of bytes and drawn on demand."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detseg.ops.polygons import surely_nonempty
from detseg.ops.rle import area, decode, from_string, to_string

NONE, POLYGONS, RLE = 0, 1, 2  # what the bytes of an object hold
MANY = 1000  # objects that are looked at together: their corners stay in the caches of a processor

# Which masks are read: none, those of all objects, or the valid ones, and objects without one are left out.
MaskUse = Literal["none", "all", "valid"]
# Conversions read the masks that there are, and keep the other objects too.
MaskReading = MaskUse | Literal["any"]

# What to do about a data set that has none.
WITHOUT = (
    "train a model that learns from boxes alone, such as FasterRCNN, with `masks='none'`, or give labels with masks: "
    "polygons of COCO, YOLO or LabelMe, RLE of COCO, or VOC's folder SegmentationObject"
)


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks of N objects, a few hundred bytes each.

    The bytes of polygons are the number of parts and how many numbers each has (int64), then their corners (float64, x
    and y in turn); those of RLE are COCO's compressed string. Each object begins at a multiple of 8.
    """

    mask_types: NDArray[np.uint8]  # (N,) NONE, POLYGONS or RLE
    byte_ranges: NDArray[np.int64]  # (N, 2) first and last + 1 of the bytes of each object
    data: NDArray[np.uint8]

    def __len__(self) -> int:
        """Count the objects."""
        return len(self.mask_types)

    def take(self, objects: NDArray[np.int64]) -> Masks:
        """Keep the objects of these rows, in their order. The bytes of all stay where they are."""
        return Masks(self.mask_types[objects], self.byte_ranges[objects], self.data)

    def polygons(self, row: int) -> list[NDArray[np.float64]]:
        """Parts of an object, each x and y in turn; none if its mask is not of polygons."""
        return unpack_polygons(self._bytes(row)) if self.mask_types[row] == POLYGONS else []

    def _bytes(self, row: int) -> bytes:
        start, end = self.byte_ranges[row].tolist()
        return self.data[start:end].tobytes()

    def rle(self, row: int, height: int, width: int) -> bytes:
        """COCO's compressed RLE of an object in an image of this size; empty if it has no mask."""
        if self.mask_types[row] == RLE:
            return self._bytes(row)
        parts = self.polygons(row)
        if not parts:
            return to_string(np.array([height * width]))
        from faster_coco_eval.core import mask

        text: bytes = mask.merge(mask.frPyObjects(parts, height, width))["counts"]
        return text

    def segmentation(self, row: int, height: int, width: int) -> list[list[float]] | dict[str, Any] | None:
        """Mask of an object as in COCO's files: polygons, compressed RLE, or None."""
        if self.mask_types[row] == NONE:
            return None
        if self.mask_types[row] == RLE:
            return {"size": [height, width], "counts": self.rle(row, height, width).decode("ascii")}
        return [part.tolist() for part in self.polygons(row)]

    def areas(self, indices: NDArray[np.int64], sizes: NDArray[np.int32]) -> NDArray[np.int64]:
        """Count the pixels (n,) of the objects ``indices`` in images of ``sizes`` (n, 2), 0 without a mask."""
        counted = [
            area(from_string(self.rle(row, *size))) if self.mask_types[row] != NONE else 0
            for row, size in zip(indices.tolist(), sizes.tolist(), strict=True)
        ]
        return np.array(counted, dtype=np.int64)

    def blank(self, sizes: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Tell which objects (N,) have no pixel in their images of ``sizes`` (N, 2), or no mask."""
        empty = np.ones(len(self), dtype=bool)
        polygons = np.flatnonzero(self.mask_types == POLYGONS)
        polygons = polygons[np.argsort(self.byte_ranges[polygons, 0])]  # as they lie in memory
        for start in range(0, len(polygons), MANY):
            rows = polygons[start : start + MANY]
            # One part that shows is enough; drawing all of them takes twenty times as long.
            first = self.byte_ranges[rows, 0] // 8
            parts, numbers = (self.data.view(np.int64)[first + place] for place in (0, 1))
            places = np.arange(numbers.sum()) + np.repeat(first + parts + 1 - (np.cumsum(numbers) - numbers), numbers)
            corners = self.data.view(np.float64)[places].reshape(-1, 2)
            empty[rows] = ~surely_nonempty(corners, numbers // 2, sizes[rows])
        unclear = np.flatnonzero(empty)
        empty[unclear] = self.areas(unclear, sizes[unclear]) == 0
        return empty

    def draw(self, indices: NDArray[np.int64], height: int, width: int) -> Iterator[NDArray[np.bool_]]:
        """Yield the masks (h, w) of the objects ``indices`` of an image, one at a time: each takes much memory."""
        for row in indices.tolist():
            yield decode(from_string(self.rle(row, height, width)), height, width)


def concat_masks(masks: Sequence[tuple[int, bytes]]) -> Masks:
    """Concatenate masks, each a mask type and its bytes."""
    data = bytearray()
    spans = append(data, [content for _, content in masks])
    return Masks(np.array([kind for kind, _ in masks], dtype=np.uint8), spans, np.frombuffer(data, dtype=np.uint8))


def join_masks(parts: Sequence[Masks]) -> Masks:
    """Join the masks of several tables."""
    starts = np.cumsum([0, *(len(part.data) for part in parts)])
    return Masks(
        np.concatenate([part.mask_types for part in parts]),
        np.concatenate([part.byte_ranges + start for part, start in zip(parts, starts, strict=False)]),
        np.concatenate([part.data for part in parts]),
    )


def append(data: bytearray, contents: Sequence[bytes]) -> NDArray[np.int64]:
    """Append the bytes of masks to ``data``, and return their byte ranges (N, 2) in it."""
    lengths = np.fromiter(map(len, contents), dtype=np.int64, count=len(contents))
    padded = -(-lengths // 8) * 8
    starts = len(data) + np.cumsum(padded) - padded
    if (padded > lengths).any():
        contents = [content + bytes(-len(content) % 8) for content in contents]
    data += b"".join(contents)
    return np.stack([starts, starts + lengths], axis=1)


def pack_many(objects: Sequence[Any]) -> tuple[bytes, NDArray[np.int64], dict[int, ValueError]]:
    """Apply ``pack_polygons`` to many objects: return the bytes, their ranges (N, 2), and errors by row.

    Valid objects are packed all at once; if any is invalid, one by one.
    """
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        parts = list(chain.from_iterable(objects))
        counts = np.fromiter(map(len, objects), dtype=np.int64, count=len(objects))
        lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
        corners = np.fromiter(chain.from_iterable(parts), dtype=np.float64, count=lengths.sum())
        whole = counts.all() and (lengths >= 6).all() and not (lengths % 2).any() and {*map(type, parts)} == {list}
        if whole and (np.abs(corners) < 1e6).all():
            return *_joined(counts, lengths, corners), {}
    data, contents, errors = bytearray(), [], {}
    for row, one in enumerate(objects):
        try:
            contents.append(pack_polygons(one))
        except ValueError as error:
            contents.append(b"")
            errors[row] = error
    spans = append(data, contents)
    return bytes(data), spans, errors


def _joined(
    counts: NDArray[np.int64], lengths: NDArray[np.int64], corners: NDArray[np.float64]
) -> tuple[bytes, NDArray[np.int64]]:
    """Pack objects of ``counts`` parts with ``lengths`` numbers each: return the bytes and their ranges (N, 2)."""
    first = np.cumsum(counts) - counts
    ends = np.cumsum(1 + counts + np.add.reduceat(lengths, first))
    starts = np.append(0, ends[:-1])
    # An object begins with how many parts it has, then how many numbers each; behind these come its corners.
    heads = np.arange(len(lengths)) + np.repeat(starts + 1 - first, counts)
    is_corner = np.ones(ends[-1], dtype=bool)
    is_corner[starts] = is_corner[heads] = False
    words = np.empty(ends[-1], dtype=np.float64)
    words.view(np.int64)[starts] = counts
    words.view(np.int64)[heads] = lengths
    words[is_corner] = corners
    return words.tobytes(), 8 * np.stack([starts, ends], axis=1)


def pack_polygons(parts: Sequence[Sequence[float]]) -> bytes:
    """Pack polygons, each x and y in turn.

    Raises ValueError, with the reason, for an invalid part. One that crosses itself is drawn as COCO does.
    """
    if not parts:
        raise ValueError("has no polygon")
    for number, part in enumerate(parts, start=1):
        if not isinstance(part, (list, tuple)) or len(part) % 2:
            raise ValueError(f"has a polygon (part {number}) that is no list of x and y in turn")
        if len(part) < 6:
            raise ValueError(f"has a polygon (part {number}) of {len(part) // 2} points; it takes 3 or more")
    lengths = [len(parts), *map(len, parts)]
    try:
        corners = np.fromiter(chain.from_iterable(parts), dtype=np.float64, count=sum(lengths[1:]))
    except (TypeError, ValueError, OverflowError):
        corners = np.array([math.nan])
    if not (np.abs(corners) < 1e6).all():
        raise ValueError("has a polygon with a corner beyond 1,000,000 pixels, or that is no number")
    return np.array(lengths, dtype=np.int64).tobytes() + corners.tobytes()


def unpack_polygons(content: bytes) -> list[NDArray[np.float64]]:
    """Invert ``pack_polygons``."""
    count = int(np.frombuffer(content, dtype=np.int64, count=1)[0])
    lengths = np.frombuffer(content, dtype=np.int64, count=count, offset=8)
    corners = np.frombuffer(content, dtype=np.float64, offset=8 * (count + 1))
    return np.split(corners, np.cumsum(lengths)[:-1])


def pack_rle(counts: Any, size: Any, height: int, width: int) -> bytes:
    """COCO's compressed RLE of an image of this height and width, from a list of counts or a compressed RLE.

    Raises ValueError, with the reason, for counts that are not those of such an image.
    """
    if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
        raise ValueError(f"has an RLE of the size {size!r}, but its image is {[height, width]} (height, width)")
    if isinstance(counts, (str, bytes)):
        text = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
        numbers = from_string(text)
    elif isinstance(counts, list) and all(type(number) is int and 0 <= number < 2**31 for number in counts):
        numbers = np.array(counts, dtype=np.int64)
        text = to_string(numbers) if counts else b""
    else:
        raise ValueError("has an RLE whose counts are neither text nor a list of numbers")
    if len(numbers) and numbers.min() < 0:
        raise ValueError("has an RLE with a count below 0")
    if numbers.sum() != height * width:
        raise ValueError(f"has an RLE of {numbers.sum()} pixels, but its image has {height * width}")
    return text
