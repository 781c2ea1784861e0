"""Average precision as the development kits of PASCAL VOC define it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.base import defined_mean
from detseg.metrics.detection_metric import DetectionMetric
from detseg.metrics.detections import Detections, GroundTruth

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


class VocAP(DetectionMetric):
    """``VOC07_AP``, the mean over the classes, and ``VOC07_AP/CLASS``, or ``VOC10_...``, all between 0 and 1.

    The ``year`` 2007 stands for VOC 2007 to 2009 (precision at the 11 recalls 0, .1 ... 1), 2010 for 2010 to 2012 (area
    under the whole curve). Each detection is compared with the object that it overlaps most, and a true positive at an
    IoU of at least .5; a second detection of an object is a false positive; one of a difficult object or a crowd does
    not count. The kit counts pixels with both ends (width = x2 - x1 + 1); in continuous coordinates that is x2 - x1.

    A class without an object that counts is NaN, and the mean leaves it out.
    """

    def __init__(self, year: Literal[2007, 2010] = 2007, classes: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(classes, **kwargs)
        if year not in (2007, 2010):
            raise ValueError(f"year {year}: must be 2007 (VOC 2007 to 2009) or 2010 (VOC 2010 to 2012)")
        self.year = year
        self.prefix = f"VOC{year % 100:02d}"
        self.monitor_metrics = (f"{self.prefix}_AP",)
        self.columns = {self.prefix: f"{self.prefix}_AP"}

    def compute(self) -> dict[str, float]:
        truth, detections, classes = self.collect()
        values = voc_ap(truth, detections, classes, self.year)
        return {f"{self.prefix}_{name}": value for name, value in values.items()}


def voc_ap(
    truth: GroundTruth, detections: Detections, classes: tuple[str, ...], year: Literal[2007, 2010]
) -> dict[str, float]:
    """``AP`` and ``AP/CLASS``, see ``VocAP``."""
    ignored, images = truth.difficult | truth.crowd, truth.images
    values = {}
    for label, name in enumerate(classes):
        objects = np.flatnonzero(truth.labels == label)
        rows = np.flatnonzero(detections.labels == label)
        rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
        matches = _matches(detections.boxes[rows], detections.images[rows], truth.boxes[objects], images[objects])
        tp = _true_positives(matches, ignored[objects])
        values[f"AP/{name}"] = _average_precision(tp, int(np.sum(~ignored[objects])), year)
    return {"AP": defined_mean(list(values.values())), **values}


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


def _true_positives(matches: Rows, ignored: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the true positives among the detections that count; ``matches`` are by descending score."""
    counted = matches[~np.append(ignored, False)[matches]]  # -1, no object, reads the False at the end
    tp = np.zeros(len(counted), dtype=bool)
    tp[np.unique(counted, return_index=True)[1]] = True  # the first of each object
    tp[counted < 0] = False
    return tp


def _average_precision(tp: NDArray[np.bool_], objects: int, year: Literal[2007, 2010]) -> float:
    """Average precision of detections by descending score, of which ``tp`` are true positives."""
    if objects == 0:
        return float("nan")
    hits = np.cumsum(tp)
    precision = hits / np.arange(1, len(tp) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]  # the highest precision at this recall or above
    if year == 2010:
        return float(envelope[tp].sum() / objects)
    # Recall reaches k/10 where 10 hits >= k objects: in whole numbers, so that no rounding decides.
    reached = np.searchsorted(10 * hits, np.arange(11) * objects)
    return float(np.append(envelope, 0.0)[reached].sum() / 11)


def _iou(a: Floats, b: Floats) -> Floats:
    """IoU of each box of ``a`` with the box of ``b`` in the same row."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    intersection = np.maximum(sides, 0).prod(axis=1)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - intersection
    return np.asarray(intersection / np.maximum(union, np.finfo(np.float64).tiny))
