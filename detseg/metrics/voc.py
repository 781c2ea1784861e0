"""Average precision as the development kits of PASCAL VOC define it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.metrics.detections import Detections

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def voc_ap(annotations: DetectionAnnotations, detections: Detections, year: Literal[2007, 2010]) -> dict[str, float]:
    """``AP``, the mean over the classes, and ``AP/<class>`` for every class, all between 0 and 1.

    2007 stands for VOC 2007 to 2009 (precision at the 11 recalls 0, .1 ... 1), 2010 for 2010 to 2012 (area under the
    whole curve). A detection is held against the object it overlaps most, right with an IoU of at least .5; the second
    one of an object is wrong; one of a difficult object or a crowd counts neither way. The kit counts pixels with both
    ends (width = x2 - x1 + 1); in our continuous coordinates that is x2 - x1.

    A class without objects to find is nan, and the mean leaves it out.
    """
    truth_images = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))
    ignored = annotations.difficult | annotations.crowd
    result = {}
    for label, name in enumerate(annotations.classes):
        truth = np.flatnonzero(annotations.labels == label)
        found = np.flatnonzero(detections.labels == label)
        found = found[np.argsort(-detections.scores[found], kind="stable")]
        matches = _matches(
            detections.boxes[found], detections.images[found], annotations.boxes[truth], truth_images[truth]
        )
        right = _right(matches, ignored[truth])
        result[f"AP/{name}"] = _average_precision(right, int(np.sum(~ignored[truth])), year)
    defined = [value for value in result.values() if not np.isnan(value)]
    return {"AP": float(np.mean(defined)) if defined else float("nan"), **result}


def _matches(boxes: Floats, images: Rows, truth_boxes: Floats, truth_images: Rows) -> Rows:
    """The object (row of ``truth_boxes``) that each box overlaps most, or -1 where the IoU is below one half.

    ``truth_images`` must ascend.
    """
    first = np.searchsorted(truth_images, images, side="left")
    counts = np.searchsorted(truth_images, images, side="right") - first
    # All pairs of a box and an object of its image, as flat rows: those of box i begin at begins[i].
    begins = np.cumsum(counts) - counts
    box = np.repeat(np.arange(len(boxes)), counts)
    truth = np.arange(len(box)) + np.repeat(first - begins, counts)
    overlaps = _iou(boxes[box], truth_boxes[truth])
    best = np.lexsort((-overlaps, box))[begins[counts > 0]]  # among equals the first object, as the kit does
    matches = np.full(len(boxes), -1)
    matches[counts > 0] = np.where(overlaps[best] >= 0.5, truth[best], -1)
    return matches


def _right(matches: Rows, ignored: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which detections are right, without those that count neither way; ``matches`` by descending score."""
    counted = matches[~np.append(ignored, False)[matches]]  # no object, -1, reads the False at the end
    right = np.zeros(len(counted), dtype=bool)
    right[np.unique(counted, return_index=True)[1]] = True  # the first of each object
    right[counted < 0] = False
    return right


def _average_precision(right: NDArray[np.bool_], objects: int, year: Literal[2007, 2010]) -> float:
    """Average precision of detections by descending score, of which ``right`` are right."""
    if objects == 0:
        return float("nan")
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]  # the highest precision at this recall or above
    if year == 2010:
        return float(envelope[right].sum() / objects)
    # Recall reaches k/10 where 10 hits >= k objects: in whole numbers, so that no rounding decides.
    reached = np.searchsorted(10 * hits, np.arange(11) * objects)
    return float(np.append(envelope, 0.0)[reached].sum() / 11)


def _iou(a: Floats, b: Floats) -> Floats:
    """IoU of each box of ``a`` with the box of ``b`` in the same row."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    intersection = np.maximum(sides, 0).prod(axis=1)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - intersection
    return np.asarray(intersection / np.maximum(union, np.finfo(np.float64).tiny))
