"""Detections above a score: precision and recall, best thresholds, counts, and confusion with the background."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.coco import Matches
from detseg.metrics.detections import Detections, GroundTruth
from detseg.metrics.matching import Floats, Rows
from detseg.metrics.tide import FOREGROUND, Pairs

CURVE_POINTS = 101


class Curve(NamedTuple):
    """Precision and recall of one class, or of all, by descending threshold; detections of a score count together."""

    thresholds: Floats  # (n,) the lowest score that is kept
    precision: Floats  # (n,)
    recall: Floats  # (n,)
    f1: Floats  # (n,)
    misses: Rows  # (n,)
    false_positives: Rows  # (n,)

    def best_f1(self) -> float:
        """The threshold with the highest F1; NaN without a true positive."""
        return float(self.thresholds[self.f1.argmax()]) if self.f1.any() else float("nan")

    def cheapest(self, miss_cost: float) -> float:
        """The threshold of the lowest cost where a miss costs as much as ``miss_cost`` false positives."""
        costs = miss_cost * self.misses + self.false_positives
        return float(self.thresholds[costs.argmin()]) if len(costs) else float("nan")

    def sampled(self) -> tuple[list[float], list[float]]:
        """Recall and precision of at most ``CURVE_POINTS`` points."""
        chosen = np.unique(np.linspace(0, max(len(self.recall) - 1, 0), CURVE_POINTS).astype(int))
        if not len(self.recall):
            return [], []
        return self.recall[chosen].round(4).tolist(), self.precision[chosen].round(4).tolist()


def precision_recall(scores: Floats, tp: NDArray[np.bool_], objects: int) -> Curve:
    """The curve of detections (n,), of which ``tp`` are true positives, among ``objects``."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.flatnonzero(np.diff(ordered, append=-np.inf))  # of each score
    hits = np.cumsum(tp[order])[last]
    precision, recall = hits / (last + 1), hits / max(objects, 1)
    f1 = 2 * hits / (last + 1 + objects)
    return Curve(ordered[last], precision, recall, f1, objects - hits, last + 1 - hits)


class Confusion(NamedTuple):
    """Objects and detections of a score or above. A class of K is the background."""

    tp: Rows  # (K,)
    fp: Rows  # (K,)
    fn: Rows  # (K,)
    cells: NDArray[np.int64]  # (C, 3) class of the objects, of the detections, and their number; off the diagonal


def confused_with(truth: GroundTruth, detections: Detections, matches: Matches, pairs: Pairs) -> Rows:
    """The object (R,) of another class that a false positive overlaps most, by IoU .5 or more; else -1."""
    other = detections.labels[matches.rows][pairs.places] != truth.labels[pairs.objects]
    iou, objects = pairs.best(other, len(matches.rows))
    return np.where((iou >= FOREGROUND) & (matches.fp & 1 > 0), objects, -1)


def confusion(
    truth: GroundTruth, detections: Detections, matches: Matches, confused: Rows, classes: int, threshold: float
) -> Confusion:
    """Count objects and detections of at least the score ``threshold`` at IoU .5.

    An object is found, or taken for the class of the best detection that overlaps it, see ``confused_with``, or missed:
    its row is that of its class, the column K. Other false positives are in the row K.
    """
    labels, counted = detections.labels[matches.rows], matches.counted[:, 0]
    kept = detections.scores[matches.rows] >= threshold
    tp, fp = ((flags & 1 > 0) & kept for flags in (matches.tp, matches.fp))
    detected = np.zeros(len(counted), dtype=bool)
    detected[matches.objects[tp]] = True
    columns = np.full(len(counted), classes)
    taken = np.flatnonzero(fp & (confused >= 0) & ~np.append(detected, True)[confused])
    taken = taken[np.argsort(detections.scores[matches.rows[taken]], kind="stable")]
    columns[confused[taken]] = labels[taken]  # the highest score remains
    spurious = fp.copy()
    spurious[taken] = False
    lost = counted & ~detected
    rows = np.concatenate([truth.labels[lost], np.full(spurious.sum(), classes)])
    cells = rows * (classes + 1) + np.concatenate([columns[lost], labels[spurious]])
    numbers = np.bincount(cells, minlength=(classes + 1) ** 2)
    index = np.flatnonzero(numbers)
    hits, wrong, misses = (
        np.bincount(values, minlength=classes) for values in (labels[tp], labels[fp], truth.labels[lost])
    )
    return Confusion(
        hits, wrong, misses, np.column_stack([index // (classes + 1), index % (classes + 1), numbers[index]])
    )
