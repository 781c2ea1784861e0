"""Systematic differences between predicted and annotated boxes: scale, offset, order of coordinates, orientation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from detseg.metrics.tide import FOREGROUND
from detseg.ops.boxes import iou
from detseg.report.evaluation import DetectionRun, Floats

MAX_IMAGES = 300  # enough for a systematic difference
MIN_OBJECTS = 5
MIN_SHARE = 0.25  # of the objects that a change must bring to an IoU of .5
MIN_GAIN = 0.15

Transform = Callable[[Floats, Floats], Floats]
"""From boxes (n, 4) xyxy, and width and height (2,) of their image, to boxes."""


def _scaled(factor: float, about: str) -> Transform:
    def transform(boxes: Floats, size: Floats) -> Floats:
        if about == "corner":
            return boxes * factor
        centers, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * factor
        return np.concatenate([centers - half, centers + half], axis=1)

    return transform


def _moved(share: float) -> Transform:
    """Move boxes by a share of their own sides."""

    def transform(boxes: Floats, size: Floats) -> Floats:
        return boxes + share * np.tile(boxes[:, 2:] - boxes[:, :2], 2)

    return transform


def _turned(quarters: int, mirrored: bool = False) -> Transform:
    """Turn fractions of the image by quarters clockwise, or mirror them."""

    def transform(boxes: Floats, size: Floats) -> Floats:
        x1, y1, x2, y2 = (boxes / np.tile(size, 2)).T
        if mirrored:
            x1, x2 = 1 - x2, 1 - x1
        for _ in range(quarters):
            x1, y1, x2, y2 = 1 - y2, x1, 1 - y1, x2
        return np.stack([x1, y1, x2, y2], axis=1) * np.tile(size, 2)

    return transform


def _order(columns: tuple[int, ...]) -> Transform:
    return lambda boxes, size: boxes[:, columns]


def _corner_and_size(boxes: Floats, size: Floats) -> Floats:
    """Boxes whose last two numbers are width and height, read as corners."""
    given = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return np.concatenate([np.minimum(given[:, :2], given[:, 2:]), np.maximum(given[:, :2], given[:, 2:])], axis=1)


def _corners_as_size(boxes: Floats, size: Floats) -> Floats:
    """Boxes whose last two numbers are a corner, read as width and height; they end at the edge of the image."""
    return np.concatenate([boxes[:, :2], np.minimum(boxes[:, :2] + boxes[:, 2:], size)], axis=1)


TURNED = "The annotated boxes are turned {} against the pixels: the EXIF orientation is applied to only one of the two"
HYPOTHESES: dict[str, tuple[str, Transform]] = {
    "swapped-axes": ("x and y are swapped in the annotated boxes or in the predicted ones", _order((1, 0, 3, 2))),
    "xywh": ("The annotated boxes are x, y, width, height, but were read as x1, y1, x2, y2", _corner_and_size),
    "xyxy": ("The annotated boxes are x1, y1, x2, y2, but were read as x, y, width, height", _corners_as_size),
    "half-size": (
        "The annotated boxes have half the sides of the predicted ones, about the same centre",
        _scaled(0.5, ""),
    ),
    "double-size": (
        "The annotated boxes have twice the sides of the predicted ones, about the same centre",
        _scaled(2, ""),
    ),
    "half-scale": (
        "The annotated coordinates are half of the predicted ones: the labels are of images of half the size",
        _scaled(0.5, "corner"),
    ),
    "double-scale": (
        "The annotated coordinates are twice the predicted ones: the labels are of images of twice the size",
        _scaled(2, "corner"),
    ),
    "center-as-corner": (
        "The annotated boxes begin at the centre of the objects: centres were read as corners",
        _moved(0.5),
    ),
    "corner-as-center": (
        "The annotated boxes end at the centre of the objects: corners were read as centres",
        _moved(-0.5),
    ),
    "turned-90": (TURNED.format("a quarter clockwise"), _turned(1)),
    "turned-180": (TURNED.format("by half a turn"), _turned(2)),
    "turned-270": (TURNED.format("a quarter anticlockwise"), _turned(3)),
    "mirrored": ("The annotated boxes are mirrored, left to right, against the predicted ones", _turned(0, True)),
}


class Difference(NamedTuple):
    """A change of the predicted boxes that makes more of them fit an object, whatever the class."""

    name: str
    sentence: str
    before: float  # share of objects with an IoU of .5 or more
    after: float
    images: list[int]  # those where it helps most


def systematic_difference(run: DetectionRun) -> Difference | None:
    """The hypothesis that explains the boxes best, if it brings many more objects to an IoU of .5."""
    images = [*_images(run)]
    if sum(len(objects) for _, objects, _, _ in images) < MIN_OBJECTS:
        return None
    before = [_best_iou(boxes, objects) for _, objects, boxes, _ in images]
    shared = _share(before)
    best: Difference | None = None
    for name, (sentence, transform) in HYPOTHESES.items():
        after = [_best_iou(transform(boxes, size), objects) for _, objects, boxes, size in images]
        share = _share(after)
        if share >= max(MIN_SHARE, shared + MIN_GAIN) and (best is None or share > best.after):
            gains = [
                (new >= FOREGROUND).sum() - (old >= FOREGROUND).sum() for old, new in zip(before, after, strict=True)
            ]
            order = np.argsort(gains)[::-1]
            best = Difference(name, sentence, shared, share, [images[row][0] for row in order[:6].tolist()])
    return best


def _images(run: DetectionRun) -> Iterator[tuple[int, Floats, Floats, Floats]]:
    """Image, boxes of the objects and of as many of the best detections (at least one), and its width and height."""
    counted = np.flatnonzero(run.boxes.counted)
    occupied = np.unique(run.truth.images[counted])
    step = max(1, len(occupied) // MAX_IMAGES)
    order = np.lexsort((-run.detections.scores, run.detections.images))
    ordered = run.detections.images[order]
    for image in occupied[::step].tolist():
        objects = run.truth.boxes[counted[run.truth.images[counted] == image]]
        begin, end = np.searchsorted(ordered, [image, image + 1])
        rows = order[begin : min(end, begin + len(objects))]
        yield image, objects, run.detections.boxes[rows], run.sizes[image][::-1].astype(np.float64)


def _best_iou(boxes: Floats, objects: Floats) -> Floats:
    """The best IoU (n,) of each object with a box."""
    overlaps = iou(torch.from_numpy(objects), torch.from_numpy(np.ascontiguousarray(boxes)))
    return np.asarray(overlaps.numpy().max(axis=1, initial=0))


def _share(overlaps: list[NDArray[np.float64]]) -> float:
    return float((np.concatenate(overlaps) >= FOREGROUND).mean())
