"""The masks of a data set's objects, packed: polygons and run lengths in one array of bytes, and no picture of any."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detseg.ops.runs import area, decode, from_text, to_text

NONE, POLYGONS, RUNS = 0, 1, 2  # what the bytes of an object hold

# Whether masks are read: not at all, every object's, or those that are sound, the other objects being left out.
MaskUse = Literal["none", "all", "sound"]


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of N objects. Those of a large data set take a few hundred bytes each.

    The bytes of polygons are the number of parts and how many numbers each has (int64), then their corners (float64, x
    and y in turn); those of run lengths are COCO's text.
    """

    kinds: NDArray[np.uint8]  # (N,) NONE, POLYGONS or RUNS
    offsets: NDArray[np.int64]  # (N + 1,) where the bytes of each object begin
    data: NDArray[np.uint8]

    def __len__(self) -> int:
        """Count the objects."""
        return len(self.kinds)

    def take(self, objects: NDArray[np.int64]) -> Masks:
        """Keep the objects of these rows, in their order."""
        if np.array_equal(objects, np.arange(len(self))):
            return self
        counts = np.diff(self.offsets)[objects]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        # Rows that follow each other are copied at once: a list of all their bytes would take eight times the memory.
        first = objects[np.diff(objects, prepend=-2) != 1]
        last = objects[np.diff(objects, append=-2) != 1]
        places = zip(self.offsets[first].tolist(), self.offsets[last + 1].tolist(), strict=True)
        data = np.concatenate([self.data[:0], *(self.data[start:stop] for start, stop in places)])
        return Masks(self.kinds[objects], offsets, data)

    def runs(self, row: int, height: int, width: int) -> bytes:
        """The text of the run lengths of an object in an image of this size; nothing is inside where it has no mask."""
        content = self.data[self.offsets[row] : self.offsets[row + 1]].tobytes()
        if self.kinds[row] == RUNS:
            return content
        parts = unpack_polygons(content) if self.kinds[row] == POLYGONS else []
        if not parts:
            return to_text(np.array([height * width]))
        from faster_coco_eval.core import mask

        text: bytes = mask.merge(mask.frPyObjects(parts, height, width))["counts"]
        return text

    def segmentation(self, row: int, height: int, width: int) -> list[list[float]] | dict[str, Any] | None:
        """The mask of an object of an image of this size as COCO's files hold it: polygons, run lengths, or None."""
        if self.kinds[row] == NONE:
            return None
        if self.kinds[row] == RUNS:
            return {"size": [height, width], "counts": self.runs(row, height, width).decode("ascii")}
        content = self.data[self.offsets[row] : self.offsets[row + 1]].tobytes()
        return [part.tolist() for part in unpack_polygons(content)]

    def areas(self, rows: NDArray[np.int64], sizes: NDArray[np.int32]) -> NDArray[np.int64]:
        """Count the pixels (n,) of the objects ``rows`` in images of ``sizes`` (n, 2); none where there is no mask."""
        counted = [
            area(from_text(self.runs(row, *size))) if self.kinds[row] != NONE else 0
            for row, size in zip(rows.tolist(), sizes.tolist(), strict=True)
        ]
        return np.array(counted, dtype=np.int64)

    def draw(self, rows: NDArray[np.int64], height: int, width: int) -> Iterator[NDArray[np.bool_]]:
        """The masks (h, w) of the objects ``rows`` of an image of this size, one at a time: each takes much memory."""
        for row in rows.tolist():
            yield decode(from_text(self.runs(row, height, width)), height, width)


def pack_masks(masks: Sequence[tuple[int, bytes]]) -> Masks:
    """Put masks, each a kind and its bytes, one behind the other."""
    offsets = np.cumsum([0, *(len(content) for _, content in masks)], dtype=np.int64)
    kinds = np.array([kind for kind, _ in masks], dtype=np.uint8)
    return Masks(kinds, offsets, np.frombuffer(b"".join(content for _, content in masks), dtype=np.uint8))


def pack_polygons(parts: Sequence[Sequence[float]]) -> bytes:
    """The bytes of polygons, each x and y in turn.

    Raises ValueError, saying what is wrong, for a part that is none. One that crosses itself is drawn as COCO does.
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
    """The inverse of ``pack_polygons``."""
    count = int(np.frombuffer(content, dtype=np.int64, count=1)[0])
    lengths = np.frombuffer(content, dtype=np.int64, count=count, offset=8)
    corners = np.frombuffer(content, dtype=np.float64, offset=8 * (count + 1))
    return np.split(corners, np.cumsum(lengths)[:-1])


def pack_runs(counts: Any, size: Any, height: int, width: int) -> bytes:
    """The text of run lengths, given as a list of numbers or as text already, of an image of this height and width.

    Raises ValueError, saying what is wrong, if they are not run lengths of such an image.
    """
    if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
        raise ValueError(f"has run lengths of a size {size!r}, but its image is {[height, width]} (height, width)")
    if isinstance(counts, (str, bytes)):
        text = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
        numbers = from_text(text)
    elif isinstance(counts, list) and all(type(number) is int and 0 <= number < 2**31 for number in counts):
        numbers = np.array(counts, dtype=np.int64)
        text = to_text(numbers) if counts else b""
    else:
        raise ValueError("has run lengths that are neither text nor a list of numbers")
    if len(numbers) and numbers.min() < 0:
        raise ValueError("has a run length below 0")
    if numbers.sum() != height * width:
        raise ValueError(f"has run lengths of {numbers.sum()} pixels, but its image has {height * width}")
    return text
