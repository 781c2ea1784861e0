"""Masks of whole images as run lengths, COCO's compact form, and how the small masks of detections become them.

Run lengths count the pixels outside and inside of a mask in turn, beginning outside, column by column. As text they are
COCO's: differences from the count two places before, five bits in a character.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

LIMITS = 16 << 5 * np.arange(7)  # below which a number has one character, two, and so on


class MaskWindow(NamedTuple):
    """The pixels of an image that a box touches, and which of them belong to the object."""

    left: int
    top: int
    inside: NDArray[np.bool_]  # (width, height): column by column, as run lengths go

    def full_mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """The mask (h, w) of the image."""
        mask = np.zeros((height, width), dtype=bool)
        columns, rows = self.inside.shape
        mask[self.top : self.top + rows, self.left : self.left + columns] = self.inside.T
        return mask


def paste_mask(mask: NDArray[np.floating], box: NDArray[np.floating], height: int, width: int) -> MaskWindow:
    """The pixels of one mask (S, S) over one box (4,), see ``mask_windows``."""
    return next(mask_windows(mask[None], box[None], height, width))


def mask_windows(
    masks: NDArray[np.floating], boxes: NDArray[np.floating], height: int, width: int
) -> Iterator[MaskWindow]:
    """The pixels at whose middle masks (n, S, S) of probabilities, stretched over boxes (n, 4), are at least one half.

    Interpolated bilinearly between the middles of their cells, and towards zero beyond the outer ones, as detectron2
    and torchvision do. ``boxes`` are xyxy in pixels of an image of ``height`` and ``width``. As both directions are
    independent, each is a product of three small matrices, in the window of its box alone.
    """
    x1, y1, x2, y2 = boxes.astype(np.float64).T
    left, columns = _interpolation(x1, x2, width, masks.shape[2])
    top, rows = _interpolation(y1, y2, height, masks.shape[1])
    for mask, x, y, across, down in zip(masks.astype(np.float32), left, top, columns, rows, strict=True):
        yield MaskWindow(x, y, (across @ mask.T) @ down.T >= 0.5)


def _interpolation(
    starts: NDArray[np.float64], ends: NDArray[np.float64], limit: int, cells: int
) -> tuple[list[int], list[NDArray[np.float32]]]:
    """For each [start, end] the first of ``limit`` pixels about it, and at the middles of all of them the weights.

    Those are (pixels, cells), of ``cells`` equal parts.
    """
    first = np.maximum(np.floor(starts).astype(np.int64) - 1, 0)
    counts = np.maximum(np.minimum(np.ceil(ends).astype(np.int64) + 1, limit) - first, 0)
    stops = np.cumsum(counts)
    pixels = np.arange(counts.sum()) + np.repeat(first - stops + counts, counts)
    scales = (cells / np.maximum(ends - starts, 1e-6)).astype(np.float32)
    starts = starts.astype(np.float32)
    places = (pixels.astype(np.float32) + np.float32(0.5) - np.repeat(starts, counts)) * np.repeat(scales, counts)
    weights = (places - np.float32(0.5))[:, None] - np.arange(cells, dtype=np.float32)
    np.abs(weights, out=weights)  # in place: it is the largest array of all
    np.subtract(1, weights, out=weights)
    np.maximum(weights, 0, out=weights)
    return first.tolist(), np.split(weights, stops[:-1]) if len(stops) else []


def encode(window: MaskWindow, height: int, width: int) -> Counts:
    """Run lengths of a mask of an image whose pixels beside the window are outside."""
    counts = np.diff(_changes(window, height), prepend=0, append=height * width)
    return counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts


def _changes(window: MaskWindow, height: int) -> Counts:
    """The pixels, counted down the columns, at which the inside of an object begins or ends."""
    columns, length = window.inside.shape
    padded = np.zeros((columns, length + 2), dtype=bool)
    padded[:, 1:-1] = window.inside
    column, row = np.divmod(np.flatnonzero(padded[:, 1:] != padded[:, :-1]), length + 1)
    changes = (window.left + column) * height + window.top + row
    # A run that ends at the bottom goes on where the next column begins at the top: no change, though it is in twice.
    again = np.flatnonzero(changes[1:] == changes[:-1])
    return np.delete(changes, np.concatenate([again, again + 1])) if len(again) else changes


def decode(counts: Counts, height: int, width: int) -> NDArray[np.bool_]:
    """The mask (h, w) of run lengths that add up to its pixels."""
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return pixels.reshape(width, height).T


def area(counts: Counts) -> int:
    """Count the pixels inside."""
    return int(counts[1::2].sum())


def to_string(counts: Counts) -> bytes:
    """COCO's text of run lengths."""
    return rle_strings(counts, np.array([len(counts)]))[0]


def from_string(text: bytes) -> Counts:
    """The inverse of ``to_string``. Raises ValueError for what is no text of run lengths."""
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


def box_masks_to_rle(
    masks: NDArray[np.floating], boxes: NDArray[np.floating], height: int, width: int
) -> Iterator[bytes]:
    """The text of the run lengths of masks (n, S, S) over boxes (n, 4) in an image.

    Of the pixels there is no more at any time than the window of one box; what follows is done for all masks at once.
    """
    parts = [_changes(window, height) for window in mask_windows(masks, boxes, height, width)]
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    changes = np.concatenate([*parts, np.zeros(0, np.int64)])
    # The masks follow each other as if they were columns of one, each ending with a change of its own.
    numbers = np.arange(len(parts)) * height * width
    changes = np.insert(changes + np.repeat(numbers, lengths), np.cumsum(lengths), numbers + height * width)
    counts = np.diff(changes, prepend=0)
    ends = np.cumsum(lengths + 1)
    needless = ends[(lengths > 0) & (counts[ends - 1] == 0)] - 1
    yield from rle_strings(np.delete(counts, needless), np.diff(ends - np.searchsorted(needless, ends), prepend=0))


def rle_strings(counts: Counts, lengths: Counts) -> list[bytes]:
    """COCO's text of each of some run lengths, which follow each other in ``counts``, ``lengths`` of them."""
    place = np.arange(len(counts)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    differences = counts.copy()
    differences[2:] -= np.where(place[2:] > 2, counts[:-2], 0)
    # So many characters that the highest of their bits says the sign.
    size = np.where(differences < 0, ~differences, differences)
    widths = 1 + np.searchsorted(LIMITS, size, side="right")
    characters = np.empty((len(counts), widths.max(initial=1)), dtype=np.uint8)
    for digit, column in enumerate(characters.T):
        column[:] = (differences >> 5 * digit & 0x1F) + np.where(digit < widths - 1, 0x20, 0) + 48
    text = characters[np.arange(characters.shape[1]) < widths[:, None]].tobytes()
    ends = np.append(0, np.cumsum(widths))[np.cumsum(lengths)].tolist()
    return [text[start:end] for start, end in pairwise([0, *ends])]
