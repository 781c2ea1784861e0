"""Masks of whole images as run lengths, COCO's compact form, and how the small masks of detections become them.

Run lengths count the pixels outside and inside of a mask in turn, beginning outside, column by column. As text they are
COCO's: differences from the count two places before, five bits in a character.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

LIMITS = 16 << 5 * np.arange(7)  # below which a number has one character, two, and so on


class Window(NamedTuple):
    """The pixels of an image that a box touches, and which of them belong to the object."""

    left: int
    top: int
    inside: NDArray[np.bool_]  # (width, height): column by column, as run lengths go

    def whole(self, height: int, width: int) -> NDArray[np.bool_]:
        """The mask (h, w) of the image."""
        mask = np.zeros((height, width), dtype=bool)
        columns, rows = self.inside.shape
        mask[self.top : self.top + rows, self.left : self.left + columns] = self.inside.T
        return mask


def paste(mask: NDArray[np.floating], box: NDArray[np.floating], height: int, width: int) -> Window:
    """The pixels at whose middle a mask (S, S) of probabilities, stretched over ``box`` (4,), is at least one half.

    Interpolated bilinearly between the middles of its cells, and towards zero beyond the outer ones, as detectron2 and
    torchvision do. ``box`` is xyxy in pixels of an image of ``height`` and ``width``. As both directions are
    independent, the whole is a product of three small matrices, in the window of the box alone.
    """
    x1, y1, x2, y2 = (float(value) for value in box)
    left, right = max(int(np.floor(x1)) - 1, 0), min(int(np.ceil(x2)) + 1, width)
    top, bottom = max(int(np.floor(y1)) - 1, 0), min(int(np.ceil(y2)) + 1, height)
    columns = _interpolation(left, right, x1, x2, mask.shape[1])
    rows = _interpolation(top, bottom, y1, y2, mask.shape[0])
    inside = columns @ mask.T.astype(np.float32) @ rows.T >= 0.5
    return Window(left, top, inside)


def _interpolation(first: int, stop: int, start: float, end: float, cells: int) -> NDArray[np.float32]:
    """The weights of each of ``cells`` equal parts of [start, end] at the middles of the pixels [first, stop)."""
    middles = np.arange(first, max(stop, first), dtype=np.float32) + 0.5
    places = (middles - start) * (cells / max(end - start, 1e-6)) - 0.5
    distances = np.abs(places[:, None] - np.arange(cells, dtype=np.float32))
    weights: NDArray[np.float32] = np.maximum(1 - distances, 0)
    return weights


def encode(window: Window, height: int, width: int) -> Counts:
    """Run lengths of a mask of an image whose pixels beside the window are outside."""
    columns, length = window.inside.shape
    padded = np.zeros((columns, length + 2), dtype=bool)
    padded[:, 1:-1] = window.inside
    column, row = np.divmod(np.flatnonzero(padded[:, 1:] != padded[:, :-1]), length + 1)
    changes = (window.left + column) * height + window.top + row
    # A run that ends at the bottom goes on where the next column begins at the top: no change, though it is in twice.
    again = np.flatnonzero(changes[1:] == changes[:-1])
    changes = np.delete(changes, np.concatenate([again, again + 1]))
    counts = np.diff(changes, prepend=0, append=height * width)
    return counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts


def decode(counts: Counts, height: int, width: int) -> NDArray[np.bool_]:
    """The mask (h, w) of run lengths that add up to its pixels."""
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return pixels.reshape(width, height).T


def area(counts: Counts) -> int:
    """Count the pixels inside."""
    return int(counts[1::2].sum())


def to_text(counts: Counts) -> bytes:
    """COCO's text of run lengths."""
    differences = counts.copy()
    differences[3:] -= counts[1:-2]
    # So many characters that the highest of their bits says the sign.
    size = np.where(differences < 0, ~differences, differences)
    lengths = 1 + np.searchsorted(LIMITS, size, side="right")
    digit = np.arange(lengths.max())
    characters = (differences[:, None] >> 5 * digit & 0x1F).astype(np.uint8) + np.uint8(48)
    characters[digit < lengths[:, None] - 1] += 0x20  # of which more follow
    text: bytes = characters[digit < lengths[:, None]].tobytes()
    return text


def from_text(text: bytes) -> Counts:
    """The inverse of ``to_text``. Raises ValueError for what is no text of run lengths."""
    characters = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if len(characters) and (characters.min() < 0 or characters.max() > 0x3F):
        raise ValueError("its counts have a character that run lengths do not have")
    last = characters & 0x20 == 0
    if not len(characters) or not last[-1]:
        raise ValueError("its counts are cut short")
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    lengths = np.diff(starts, append=len(characters))
    if lengths.max() > len(LIMITS):
        raise ValueError("its counts have a number that is too long")
    places = 5 * (np.arange(len(characters)) - np.repeat(starts, lengths))
    differences = np.add.reduceat((characters & 0x1F) << places, starts)
    negative = characters[last] & 0x10 != 0
    differences -= np.where(negative, 1 << (5 * lengths), 0)
    # Each is a difference from the count two places before, but for the first three.
    counts = differences.copy()
    counts[1::2] = np.cumsum(differences[1::2])
    counts[2::2] = np.cumsum(differences[2::2])
    return counts


def runs(masks: NDArray[np.floating], boxes: NDArray[np.floating], height: int, width: int) -> Iterator[bytes]:
    """The text of the run lengths of each of some masks (n, S, S) over boxes (n, 4) in an image, one after the other.

    At no time is there more than the window of one box.
    """
    for mask, box in zip(masks, boxes, strict=True):
        yield to_text(encode(paste(mask, box, height, width), height, width))
