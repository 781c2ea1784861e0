"""Statistics of a data set: sizes and shapes of boxes, objects per image, and the overlap with anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.ops.anchors import SCALE, base_anchors
from detseg.resizing import fit

STRIDES = (4, 8, 16, 32, 64)  # of the levels P2 to P6 (Feature pyramid networks, section 4.1)
MAX_LONG_EDGE = 1333 / 800  # in units of the short edge, as in ``Transforms``
SIZE_GROUPS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}  # COCO's areas, pixels
MIN_IOU = 0.5  # of an anchor that covers an object


class BoxStatistics(NamedTuple):
    """Statistics over all splits of a data set, crowds and difficult objects included."""

    box_sides: NDArray[np.float64]  # (N,) square root of the area of each box, in pixels of the files
    aspect_ratios: NDArray[np.float64]  # (N,) width over height of each box
    objects_per_image: NDArray[np.int64]  # (I,)
    anchor_ious: NDArray[np.float64]  # (N,) IoU with the best anchor
    size_groups: NDArray[np.str_]  # (N,) small, medium or large


def box_statistics(splits: Mapping[str, DetectionAnnotations], side: int) -> BoxStatistics:
    """Measure all boxes; anchors are compared in images resized to the short edge ``side``."""
    counts = [np.diff(annotations.offsets) for annotations in splits.values()]
    sizes = [np.repeat(annotations.sizes, np.diff(annotations.offsets), axis=0) for annotations in splits.values()]
    boxes = np.concatenate([np.zeros((0, 4)), *(annotations.boxes for annotations in splits.values())])
    image_sizes = np.concatenate([np.zeros((0, 2), np.int32), *sizes])
    boxes = boxes.clip(0, np.tile(image_sizes[:, ::-1], 2))
    width, height = (boxes[:, 2:] - boxes[:, :2]).T.clip(1e-6)
    area = width * height
    group = np.searchsorted([low for low, _ in SIZE_GROUPS.values()], area, side="right") - 1
    return BoxStatistics(
        box_sides=np.sqrt(area),
        aspect_ratios=width / height,
        objects_per_image=np.concatenate([np.zeros(0, np.int64), *counts]),
        anchor_ious=best_anchor_ious(boxes, image_sizes, side),
        size_groups=np.array(list(SIZE_GROUPS))[group],
    )


Levels = Sequence[tuple[int, NDArray[np.float64]]]
"""Strides of feature maps, and the anchors (n, 4) of a cell of each, centred on the origin."""


def pyramid_levels() -> Levels:
    """The anchors of a feature pyramid."""
    return [(stride, base_anchors([SCALE * stride]).astype(np.float64)) for stride in STRIDES]


def best_anchor_ious(
    boxes: NDArray[np.float64],
    image_sizes: NDArray[Any],
    side: int,
    max_side: int | None = None,
    levels: Levels | None = None,
) -> NDArray[np.float64]:
    """Return the largest IoU (N,) of boxes (N, 4), in images of ``image_sizes`` (N, 2), with the anchors of ``levels``.

    Images are resized to the short edge ``side``, or less to keep the long edge to ``max_side``; the default anchors
    are those of a pyramid. Of the anchors of one shape, the best is the one with the nearest center: both the width and
    the height of the intersection decrease with the distance.
    """
    best = np.zeros(len(boxes))
    if not len(boxes):
        return best
    resized = fit(image_sizes, side, max_side or round(side * MAX_LONG_EDGE))
    scaled = boxes * np.tile((resized / image_sizes)[:, ::-1], 2)
    centers = (scaled[:, :2] + scaled[:, 2:]) / 2
    area = (scaled[:, 2:] - scaled[:, :2]).prod(axis=1)
    for stride, shapes in levels or pyramid_levels():
        last_cell = -(-resized[:, ::-1] // stride) - 1
        nearest = stride * np.round(centers / stride).clip(0, last_cell)
        for shape in shapes:
            anchors = np.tile(nearest, 2) + shape
            overlap = np.minimum(scaled[:, 2:], anchors[:, 2:]) - np.maximum(scaled[:, :2], anchors[:, :2])
            intersection = overlap.clip(0).prod(axis=1)
            best = np.maximum(best, intersection / (area + (shape[2:] - shape[:2]).prod() - intersection))
    return best


def anchor_coverage(statistics: BoxStatistics) -> dict[str, tuple[int, float]]:
    """Return the number of boxes of each size group, and the fraction with an anchor of IoU 0.5 or more."""
    ious = statistics.anchor_ious
    groups = {"all": np.ones(len(ious), dtype=bool)} | {name: statistics.size_groups == name for name in SIZE_GROUPS}
    return {
        name: (int(group.sum()), float((ious[group] >= MIN_IOU).mean()) if group.any() else 0.0)
        for name, group in groups.items()
    }
