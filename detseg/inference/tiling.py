"""Predict on overlapping tiles of an image, one after another, and merge their results; needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from detseg.constants import STRIDE
from detseg.errors import ConfigError
from detseg.inference.fusion import intersection, iou
from detseg.inference.images import ImageArray
from detseg.inference.results import DetectionResult, Result, SemanticResult
from detseg.ops.rle import ColumnRuns, column_runs, from_column_runs, from_string, to_string, vote

OVERLAP_THRESHOLD = 0.5  # of two detections of one object in different tiles
MAX_OVERLAP = 0.9
EDGE = 0.01  # of a tile's side: a box that ends so near to a seam is cut by it


@dataclass(frozen=True)
class Tiling:
    """Cut images into squares of ``size`` pixels that overlap by at least the share ``overlap`` of their side.

    An object is whole in one of the tiles if the overlap is as large as it. A tile is resized as an image is.

    Raises ConfigError, naming it, for an invalid value.
    """

    size: int
    overlap: float = 0.2

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < STRIDE:
            raise ConfigError(f"tile {self.size}: must be a whole number of pixels, at least {STRIDE}")
        if not 0 <= self.overlap <= MAX_OVERLAP:
            raise ConfigError(f"overlap {self.overlap:g}: must be between 0 and {MAX_OVERLAP}")


class Pixels(Protocol):
    """An image (h, w, 3), RGB, of which a tile is read at a time: an array, or a file as in ``regions``."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, window: tuple[slice, slice]) -> ImageArray: ...


class Window(NamedTuple):
    """A part of an image, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


Predict = Callable[[Sequence[ImageArray]], Sequence[Result]]


def predict_tiles(predict: Predict, image: Pixels, tiling: Tiling, batch_size: int) -> Result:
    """Predict on the tiles of an image, ``batch_size`` at once, and merge their results; memory holds no other tiles.

    Raises ConfigError for a classifier, which sees an image as a whole.
    """
    height, width = image.shape[:2]
    windows = tile_windows(height, width, tiling)
    labels: NDArray[np.uint8] | None = None
    results: list[Any] = []
    for start in range(0, len(windows), batch_size):
        batch = windows[start : start + batch_size]
        tiles = [np.ascontiguousarray(image[top:bottom, left:right]) for left, top, right, bottom in batch]
        for window, result in zip(batch, predict(tiles), strict=True):
            if isinstance(result, SemanticResult):
                labels = np.zeros((height, width), dtype=np.uint8) if labels is None else labels
                left, top, right, bottom = _interior(window, height, width, tiling)
                labels[top:bottom, left:right] = result.labels[
                    top - window.top : bottom - window.top, left - window.left : right - window.left
                ]
                results = [result]
            elif isinstance(result, DetectionResult):
                results.append(move(result, window, height, width))
            else:
                raise ConfigError("tiles are for detectors and segmenters; a classifier sees an image as a whole")
    if labels is not None:
        merged: Result = replace(results[0], labels=labels, image_size=(height, width), pixels=None)
        return merged
    return merge_at_seams(results, windows)


def tile_windows(height: int, width: int, tiling: Tiling) -> list[Window]:
    """List the tiles that cover an image, row by row."""
    return [
        Window(left, top, min(left + tiling.size, width), min(top + tiling.size, height))
        for top in _starts(height, tiling)
        for left in _starts(width, tiling)
    ]


def _starts(length: int, tiling: Tiling) -> list[int]:
    """Starts of the tiles that cover a length, the last one at the end.

    The others lie on the grid of the network's coarsest cells, where the image keeps its scale.
    """
    step = math.floor(tiling.size * (1 - tiling.overlap))
    step -= step % STRIDE if step > STRIDE else 0
    last = max(0, length - tiling.size)
    return [*range(0, last, max(1, step)), last]


def _interior(window: Window, height: int, width: int, tiling: Tiling) -> Window:
    """Return the part of a tile that lies nearer to its centre than to that of its neighbours."""
    left, right = _between(window.left, width, tiling)
    top, bottom = _between(window.top, height, tiling)
    return Window(left, top, right, bottom)


def _between(start: int, length: int, tiling: Tiling) -> tuple[int, int]:
    starts = _starts(length, tiling)
    seams = [0, *((before + tiling.size + after) // 2 for before, after in pairwise(starts)), length]
    position = starts.index(start)
    return seams[position], seams[position + 1]


def move(result: DetectionResult, window: Window, height: int, width: int) -> DetectionResult:
    """Move the detections of a tile to their places in an image of ``height`` and ``width``."""
    rles = None
    if result.mask_rles is not None:
        rles = [_move_mask(rle, window, height, width) for rle in result.mask_rles]
    boxes = result.boxes + np.array([window.left, window.top] * 2, dtype=np.float32)
    return replace(result, boxes=boxes, mask_rles=rles, image_size=(height, width), pixels=None)


def _move_mask(rle: bytes, window: Window, height: int, width: int) -> bytes:
    column, start, stop = column_runs(from_string(rle), window.bottom - window.top)
    runs = ColumnRuns(column + window.left, start + window.top, stop + window.top)
    return to_string(from_column_runs(runs, height, width))


def merge_at_seams(results: Sequence[DetectionResult], windows: Sequence[Window]) -> DetectionResult:
    """Merge the detections of overlapping tiles, which are those of the whole image, by NMS within each class.

    Detections of two tiles are one object if their IoU is above OVERLAP_THRESHOLD in the area that both tiles show; a
    detection that a seam cuts belongs to a whole one that covers more than this share of it. Whole ones win over cut
    ones, then the one with more of the image around it, since networks pad the edges of a tile with zeros. An object
    that every tile cuts is the union of its parts, with the best score of them.
    """
    if len(results) == 1:
        return results[0]
    boxes, scores, labels = (
        np.concatenate([getattr(result, name) for result in results]) for name in ("boxes", "scores", "labels")
    )
    tiles = np.repeat(np.arange(len(results)), [len(result) for result in results])
    context = _context(boxes, np.array(windows)[tiles], results[0].image_size)
    cut = context < max(2, EDGE * max(windows[0].right, windows[0].bottom))
    order = np.lexsort((-scores, np.where(cut, 0, -context), cut))
    groups = _group(order.tolist(), cut, _matches(boxes, labels, cut, tiles, windows))
    best = np.array([group[0] for group in groups], dtype=np.int64)
    for group in groups:
        if len(group) > 1:
            parts = boxes[group]
            boxes[group[0]] = [*parts[:, :2].min(axis=0), *parts[:, 2:].max(axis=0)]
    rles = None
    if results[0].mask_rles is not None:
        encoded = [rle for result in results for rle in result.mask_rles or ()]
        rles = [_union([encoded[row] for row in group]) for group in groups]
    order = np.argsort(-scores[best], kind="stable")
    return replace(
        results[0],
        boxes=boxes[best[order]],
        scores=scores[best[order]],
        labels=labels[best[order]],
        mask_rles=None if rles is None else [rles[position] for position in order.tolist()],
    )


def _context(
    boxes: NDArray[np.float32], windows: NDArray[np.int64], image_size: tuple[int, int]
) -> NDArray[np.floating]:
    """Measure how far boxes (n, 4) lie from the edges of their tile (n, 4) inside the image; (n,), infinite if none."""
    height, width = image_size
    begins = np.where(windows[:, :2] > 0, boxes[:, :2] - windows[:, :2], np.inf)
    ends = np.where(windows[:, 2:] < [width, height], windows[:, 2:] - boxes[:, 2:], np.inf)
    distances: NDArray[np.floating] = np.minimum(begins, ends).min(axis=1)
    return distances


def _matches(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    cut: NDArray[np.bool_],
    tiles: NDArray[np.int64],
    windows: Sequence[Window],
) -> dict[int, list[int]]:
    """List the detections of the same object in other tiles for each detection that has any."""
    areas = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-6)
    starts = np.searchsorted(tiles, np.arange(len(windows) + 1)).tolist()
    matches: dict[int, list[int]] = {}
    for one, other in _neighbours(np.array(windows)):
        a, b = (slice(starts[tile], starts[tile + 1]) for tile in (one, other))
        low, high = np.maximum(windows[one][:2], windows[other][:2]), np.minimum(windows[one][2:], windows[other][2:])
        bounds = np.tile(low, 2), np.tile(high, 2)
        overlaps = iou(boxes[a, None].clip(*bounds), boxes[None, b].clip(*bounds))
        inside = intersection(boxes[a, None], boxes[None, b])
        overlaps = np.where(cut[a, None] & ~cut[b], inside / areas[a, None], overlaps)
        overlaps = np.where(cut[b] & ~cut[a, None], inside / areas[b], overlaps)
        same = (overlaps > OVERLAP_THRESHOLD) & (labels[a, None] == labels[b])
        for i, j in np.argwhere(same).tolist():
            matches.setdefault(i + starts[one], []).append(j + starts[other])
            matches.setdefault(j + starts[other], []).append(i + starts[one])
    return matches


def _neighbours(windows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Pairs of tiles, which are in the order of their tops, with an area in common."""
    tops = windows[:, 1]
    for one, (left, _, right, bottom) in enumerate(windows.tolist()):
        later = np.arange(one + 1, np.searchsorted(tops, bottom))
        meets = (windows[later, 0] < right) & (windows[later, 2] > left)
        yield from ((one, other) for other in later[meets].tolist())


def _group(order: Sequence[int], cut: NDArray[np.bool_], matches: dict[int, list[int]]) -> list[list[int]]:
    """Return the rows of each object: one that no seam cuts, or the parts of one that every tile cuts, best first."""
    groups = []
    free = np.ones(len(cut), dtype=bool)
    for row in order:
        if not free[row]:
            continue
        free[row] = False
        group = [row]
        for part in group:  # which grows
            others = [other for other in matches.get(part, ()) if free[other]]
            free[others] = False
            if cut[row]:
                group += others
        groups.append(group)
    return groups


def _union(rles: Sequence[bytes]) -> bytes:
    return rles[0] if len(rles) == 1 else to_string(vote([from_string(rle) for rle in rles], [1] * len(rles), 1))
