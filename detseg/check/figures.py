"""What a data set is like: how many, how large, and how well anchors fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.transforms.detection import fit
from detseg.ops.anchors import base_anchors

STRIDES = (4, 8, 16, 32, 64)  # of the maps of a pyramid, P2 to P6 (Feature pyramid networks, section 4.1)
RATIOS = (0.5, 1.0, 2.0)
LONGEST = 1333 / 800  # how many times longer the long edge may become than the short one, as in ``Transforms``
GROUPS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}  # COCO's, areas in pixels
ENOUGH = 0.5  # IoU from which an anchor is near enough to an object


class Figures(NamedTuple):
    """Figures of all parts of a data set together, crowds and difficult objects included."""

    sides: NDArray[np.float64]  # (N,) square root of the area of each box, in pixels of the files
    shapes: NDArray[np.float64]  # (N,) width over height of each box
    per_image: NDArray[np.int64]  # (I,) objects
    best: NDArray[np.float64]  # (N,) IoU with the best anchor
    groups: NDArray[np.str_]  # (N,) small, medium or large


def figures(parts: Mapping[str, DetectionAnnotations], side: int) -> Figures:
    """Measure boxes, those in images resized to the short edge ``side`` where anchors are concerned."""
    counts = [np.diff(part.offsets) for part in parts.values()]
    sizes = [np.repeat(part.sizes, np.diff(part.offsets), axis=0) for part in parts.values()]
    all_boxes = np.concatenate([np.zeros((0, 4)), *(part.boxes for part in parts.values())])
    all_sizes = np.concatenate([np.zeros((0, 2), np.int32), *sizes])
    all_boxes = all_boxes.clip(0, np.tile(all_sizes[:, ::-1], 2))
    width, height = (all_boxes[:, 2:] - all_boxes[:, :2]).T.clip(1e-6)
    area = width * height
    group = np.searchsorted([low for low, _ in GROUPS.values()], area, side="right") - 1
    return Figures(
        sides=np.sqrt(area),
        shapes=width / height,
        per_image=np.concatenate([np.zeros(0, np.int64), *counts]),
        best=best_anchors(all_boxes, all_sizes, side),
        groups=np.array(list(GROUPS))[group],
    )


def best_anchors(boxes: NDArray[np.float64], sizes: NDArray[Any], side: int) -> NDArray[np.float64]:
    """The largest IoU (N,) of boxes (N, 4), in images of ``sizes`` (N, 2), with the anchors of a default pyramid.

    Images are resized so that their short edge is ``side``. The best anchor of a kind is the one whose middle is
    nearest: both the width and the height of the intersection fall with the distance.
    """
    best = np.zeros(len(boxes))
    if not len(boxes):
        return best
    fitted = fit(sizes, side, round(side * LONGEST))
    scaled = boxes * np.tile((fitted / sizes)[:, ::-1], 2)
    middle = (scaled[:, :2] + scaled[:, 2:]) / 2
    area = (scaled[:, 2:] - scaled[:, :2]).prod(axis=1)
    for stride in STRIDES:
        cells = base_anchors([8 * stride], RATIOS).to(torch.float64).numpy()
        last = -(-fitted[:, ::-1] // stride) - 1
        nearest = stride * np.round(middle / stride).clip(0, last)
        for cell in cells:
            anchors = np.tile(nearest, 2) + cell
            overlap = np.minimum(scaled[:, 2:], anchors[:, 2:]) - np.maximum(scaled[:, :2], anchors[:, :2])
            common = overlap.clip(0).prod(axis=1)
            best = np.maximum(best, common / (area + (cell[2:] - cell[:2]).prod() - common))
    return best


def covered(found: Figures) -> dict[str, tuple[int, float]]:
    """By size: the number of boxes, and the share of them for which some anchor is near enough."""
    groups = {"all": np.ones(len(found.best), dtype=bool)} | {name: found.groups == name for name in GROUPS}
    return {
        name: (int(rows.sum()), float((found.best[rows] >= ENOUGH).mean()) if rows.any() else 0.0)
        for name, rows in groups.items()
    }
