"""Run-length encoding (RLE) of masks, and pasting of predicted masks into their image.

The counts alternate between pixels outside and inside of the mask, beginning outside, column by column. COCO's
compressed string holds differences from the count two places before, five bits a character.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

LIMITS = 16 << 5 * np.arange(7)  # a number below LIMITS[i] takes i + 1 characters


class MaskWindow(NamedTuple):
    """A mask of the pixels that a box touches, and its place in the image."""

    left: int
    top: int
    inside: NDArray[np.bool_]  # (width, height): column by column, as in RLE

    def full_mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return the mask (h, w) of the whole image."""
        mask = np.zeros((height, width), dtype=bool)
        columns, rows = self.inside.shape
        mask[self.top : self.top + rows, self.left : self.left + columns] = self.inside.T
        return mask


def paste_mask(mask: NDArray[np.floating], box: NDArray[np.floating], height: int, width: int) -> MaskWindow:
    """Paste one predicted mask (S, S) over one box (4,), as ``mask_windows`` does."""
    return next(mask_windows(mask[None], box[None], height, width))


def mask_windows(
    masks: NDArray[np.floating], boxes: NDArray[np.floating], height: int, width: int
) -> Iterator[MaskWindow]:
    """Paste predicted masks (n, S, S) over boxes (n, 4) and threshold them at one half.

    Probabilities are interpolated bilinearly between the centres of their cells, and towards zero beyond the outer
    ones, as in detectron2 and torchvision. ``boxes`` are xyxy in pixels of an image of ``height`` and ``width``. The
    axes are independent, so each window is a product of three small matrices.
    """
    x1, y1, x2, y2 = boxes.astype(np.float64).T
    left, columns = _interpolation(x1, x2, width, masks.shape[2])
    top, rows = _interpolation(y1, y2, height, masks.shape[1])
    for mask, x, y, across, down in zip(masks.astype(np.float32), left, top, columns, rows, strict=True):
        yield MaskWindow(x, y, (across @ mask.T) @ down.T >= 0.5)


def _interpolation(
    starts: NDArray[np.float64], ends: NDArray[np.float64], limit: int, cells: int
) -> tuple[list[int], list[NDArray[np.float32]]]:
    """Compute, for each [start, end], its first pixel and the weights of ``cells`` equal parts at its pixel centres.

    The weights are (pixels, cells); pixels lie between 0 and ``limit``.
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
    """Encode the mask of a window in an image of ``height`` and ``width`` as RLE."""
    return _counts(_changes(window, height), height * width)


def _counts(changes: Counts, pixels: int) -> Counts:
    """Convert the pixels at which the inside begins or ends to RLE counts of a mask of so many ``pixels``."""
    counts = np.diff(changes, prepend=0, append=pixels)
    return counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts


def _changes(window: MaskWindow, height: int) -> Counts:
    """List the pixels, counted down the columns, at which the inside of an object begins or ends."""
    columns, length = window.inside.shape
    padded = np.zeros((columns, length + 2), dtype=bool)
    padded[:, 1:-1] = window.inside
    column, row = np.divmod(np.flatnonzero(padded[:, 1:] != padded[:, :-1]), length + 1)
    return _join_runs((window.left + column) * height + window.top + row)


def _join_runs(changes: Counts) -> Counts:
    """Join a run that ends at the bottom with the one at the top of the next column: two changes at one pixel."""
    repeated = np.flatnonzero(changes[1:] == changes[:-1])
    return np.delete(changes, np.concatenate([repeated, repeated + 1])) if len(repeated) else changes


class ColumnRuns(NamedTuple):
    """The runs inside a mask, each within one column; they do not overlap."""

    column: Counts  # (R,)
    start: Counts  # (R,) first row
    stop: Counts  # (R,) the row after the last


def column_runs(counts: Counts, height: int) -> ColumnRuns:
    """Split the runs inside a mask of ``height`` at the ends of its columns."""
    edges = np.cumsum(counts)
    start, stop = edges[0::2][: len(edges) // 2], edges[1::2]
    start, stop = start[stop > start], stop[stop > start]
    first, last = start // height, (stop - 1) // height
    parts = last - first + 1
    column = np.arange(parts.sum()) + np.repeat(first - np.cumsum(parts) + parts, parts)
    begins, ends = (np.repeat(edge, parts) - column * height for edge in (start, stop))
    return ColumnRuns(column, begins.clip(0), ends.clip(None, height))


def from_column_runs(runs: ColumnRuns, height: int, width: int) -> Counts:
    """Encode the runs of the columns of a mask of ``height`` and ``width`` as RLE."""
    column, start, stop = (part[np.lexsort((runs.start, runs.column))] for part in runs)
    changes = np.stack([column * height + start, column * height + stop], axis=1).reshape(-1)
    return _counts(_join_runs(changes), height * width)


def vote(masks: Sequence[Counts], weights: Sequence[float], threshold: float) -> Counts:
    """Encode the pixels at which the ``weights`` of the masks (n,) that contain them add up to ``threshold``.

    The masks are of one image. The work is that of their runs, whatever the size of the image.
    """
    edges = [np.cumsum(counts) for counts in masks]
    steps = [np.resize([weight, -weight], len(edge)) for edge, weight in zip(edges, weights, strict=True)]
    pixels, position = int(edges[0][-1]), np.concatenate(edges)
    order = np.argsort(position, kind="stable")
    position, totals = position[order], np.cumsum(np.concatenate(steps)[order])
    last = np.append(position[1:] != position[:-1], True) & (position < pixels)  # of the changes at one pixel
    position, inside = position[last], totals[last] >= threshold * (1 - 1e-9)  # sums are not exact
    changes: Counts = position[np.diff(inside, prepend=False)]
    return _counts(changes, pixels)


def decode(counts: Counts, height: int, width: int) -> NDArray[np.bool_]:
    """Decode RLE counts that add up to ``height * width`` into a mask (h, w)."""
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return pixels.reshape(width, height).T


def area(counts: Counts) -> int:
    """Count the pixels inside."""
    return int(counts[1::2].sum())


def to_string(counts: Counts) -> bytes:
    """Compress RLE counts into COCO's string."""
    return rle_strings(counts, np.array([len(counts)]))[0]


def from_string(string: bytes) -> Counts:
    """Parse COCO's compressed string. Raises ValueError if it is malformed."""
    characters = np.frombuffer(string, dtype=np.uint8).astype(np.int64) - 48
    if len(characters) and (characters.min() < 0 or characters.max() > 0x3F):
        raise ValueError("its counts contain a character that RLE does not use")
    last = characters & 0x20 == 0
    if not len(characters) or not last[-1]:
        raise ValueError("its counts are truncated")
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    lengths = np.diff(starts, append=len(characters))
    if lengths.max() > len(LIMITS):
        raise ValueError("its counts contain a number that is too long")
    places = 5 * (np.arange(len(characters)) - np.repeat(starts, lengths))
    differences = np.add.reduceat((characters & 0x1F) << places, starts)
    negative = characters[last] & 0x10 != 0
    differences -= np.where(negative, 1 << (5 * lengths), 0)
    # Each but the first three is a difference from the count two places before.
    counts = differences.copy()
    counts[1::2] = np.cumsum(differences[1::2])
    counts[2::2] = np.cumsum(differences[2::2])
    return counts


def box_masks_to_rle(
    masks: NDArray[np.floating], boxes: NDArray[np.floating], height: int, width: int
) -> Iterator[bytes]:
    """Paste predicted masks (n, S, S) over boxes (n, 4) in an image and yield COCO's compressed RLE strings.

    Memory holds the pixels of one window at a time; the encoding runs on all masks at once.
    """
    parts = [_changes(window, height) for window in mask_windows(masks, boxes, height, width)]
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    changes = np.concatenate([*parts, np.zeros(0, np.int64)])
    # The masks follow each other like columns of one mask, each ending with an additional change.
    numbers = np.arange(len(parts)) * height * width
    changes = np.insert(changes + np.repeat(numbers, lengths), np.cumsum(lengths), numbers + height * width)
    counts = np.diff(changes, prepend=0)
    ends = np.cumsum(lengths + 1)
    empty = ends[(lengths > 0) & (counts[ends - 1] == 0)] - 1
    yield from rle_strings(np.delete(counts, empty), np.diff(ends - np.searchsorted(empty, ends), prepend=0))


def rle_strings(counts: Counts, lengths: Counts) -> list[bytes]:
    """Compress several run-length lists, which follow each other in ``counts``, ``lengths`` of each."""
    place = np.arange(len(counts)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    differences = counts.copy()
    differences[2:] -= np.where(place[2:] > 2, counts[:-2], 0)
    # As many characters as leave the highest bit for the sign.
    size = np.where(differences < 0, ~differences, differences)
    widths = 1 + np.searchsorted(LIMITS, size, side="right")
    characters = np.empty((len(counts), widths.max(initial=1)), dtype=np.uint8)
    for digit, column in enumerate(characters.T):
        column[:] = (differences >> 5 * digit & 0x1F) + np.where(digit < widths - 1, 0x20, 0) + 48
    strings = characters[np.arange(characters.shape[1]) < widths[:, None]].tobytes()
    ends = np.append(0, np.cumsum(widths))[np.cumsum(lengths)].tolist()
    return [strings[start:end] for start, end in pairwise([0, *ends])]
