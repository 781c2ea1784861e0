"""Six types of errors and the average precision that each costs (Bolya et al. 2020, TIDE, arXiv:2008.08115)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.base import defined_mean
from detseg.metrics.bootstrap import interpolated_ap
from detseg.metrics.coco import Matches
from detseg.metrics.detections import Detections, GroundTruth
from detseg.metrics.matching import Floats, Overlaps, Rows, near_pairs

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU (section 2.2)
ERRORS = ("classification", "localization", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALIZATION, BOTH, DUPLICATE, BACKGROUND_ERROR, MISSED = range(6)

Flags = NDArray[np.bool_]


class Pairs(NamedTuple):
    """Detections and counted objects of any class in one image that overlap enough."""

    places: Rows  # (P,) of the detections in ``Matches.rows``
    objects: Rows  # (P,)
    iou: Floats  # (P,)

    def best(self, selected: Flags, count: int) -> tuple[Floats, Rows]:
        """The highest IoU (R,) of each of ``count`` detections with its object, among the ``selected`` pairs.

        Without a pair, the IoU is 0 and the object -1.
        """
        iou, objects = np.zeros(count), np.full(count, -1)
        order = np.lexsort((-self.objects[selected], self.iou[selected], self.places[selected]))
        places = self.places[selected][order]
        iou[places], objects[places] = self.iou[selected][order], self.objects[selected][order]  # the last remains
        return iou, objects


class Tide(NamedTuple):
    """Errors of R matched detections and N objects, and their costs."""

    types: NDArray[np.int64]  # (R,) index in ``ERRORS``, -1 for true positives
    targets: Rows  # (R,) the object that the detection would be, were it right; -1 for none
    missed: Flags  # (N,) objects that no detection could become
    ap50: float
    costs: dict[str, float]  # gain of AP50 without the errors, by name; also without false positives and negatives


def any_class_pairs(
    truth: GroundTruth, detections: Detections, matches: Matches, overlaps: Overlaps, lowest: float = BACKGROUND
) -> Pairs:
    """Pair detections with objects that count, whatever their classes, of an IoU of at least ``lowest``."""
    counted = np.flatnonzero(matches.counted[:, 0])
    places, objects, iou = near_pairs(
        np.arange(len(matches.rows)),
        detections.images[matches.rows],
        truth.images[counted],
        lambda place, item: overlaps(matches.rows[place], counted[item]),
        lowest,
    )
    return Pairs(places, counted[objects], iou)


def tide(truth: GroundTruth, detections: Detections, matches: Matches, pairs: Pairs, classes: int) -> Tide:
    """Sort the errors at IoU .5 by type, and fix each type alone to measure its cost (sections 2.2 and 2.3).

    Classes without an object do not count, as in COCO's AP.
    """
    counted = matches.counted[:, 0]
    labels, scores = detections.labels[matches.rows], detections.scores[matches.rows]
    tp, fp = (matches.tp & 1) > 0, (matches.fp & 1) > 0
    used = np.zeros(len(counted), dtype=bool)
    used[matches.objects[tp]] = True
    types, targets = _types(pairs, tp, labels[pairs.places] == truth.labels[pairs.objects], used)

    fixable = (targets >= 0) & ~np.append(used, True)[targets]
    by_score = np.flatnonzero(fixable)[np.argsort(-scores[fixable], kind="stable")]
    usable, first = np.unique(targets[by_score], return_index=True)
    fixed = np.zeros(len(labels), dtype=bool)
    fixed[by_score[first]] = True
    missed = counted & ~used
    missed[usable] = False

    objects = np.bincount(truth.labels[counted], minlength=classes)

    def ap(kept: Flags, hits: Flags, left_out: Flags, fixed_labels: Rows = labels) -> float:
        remaining = objects - np.bincount(truth.labels[left_out], minlength=classes)
        return _mean_ap(fixed_labels[kept], scores[kept], hits[kept], remaining, objects > 0)

    nothing = np.zeros(len(counted), dtype=bool)
    ap50 = ap(tp | fp, tp, nothing)
    costs = {}
    for index, name in enumerate(ERRORS):
        of_type = types == index
        hits = tp | (of_type & fixed)
        relabelled = labels
        if index == CLASSIFICATION:
            relabelled = np.where(of_type & fixed, np.append(truth.labels, 0)[targets], labels)
        without = ap(hits | (fp & ~of_type), hits, missed if index == MISSED else nothing, relabelled)
        gain = (1.0 if np.isnan(without) else without) - ap50  # undefined once every object has been removed
        costs[name] = max(gain, 0.0)
    costs["false positives"] = ap(tp, tp, nothing) - ap50
    costs["false negatives"] = ap(tp | fp, tp, counted & ~used) - ap50
    return Tide(types, targets, missed, ap50, costs)


def _types(pairs: Pairs, tp: Flags, same: Flags, used: Flags) -> tuple[NDArray[np.int64], Rows]:
    """The type of each error (R,), in the paper's order of precedence, and the object that it is about."""
    count = len(tp)
    same_iou, same_object = pairs.best(same, count)
    other_iou, other_object = pairs.best(~same, count)
    used_iou, used_object = pairs.best(same & used[pairs.objects], count)
    types, targets = np.full(count, BOTH), np.full(count, -1)
    for index, applies, target in (  # the last that applies remains
        (BACKGROUND_ERROR, np.maximum(same_iou, other_iou) <= BACKGROUND, targets),
        (DUPLICATE, used_iou >= FOREGROUND, used_object),
        (CLASSIFICATION, other_iou >= FOREGROUND, other_object),
        (LOCALIZATION, (same_iou >= BACKGROUND) & (same_iou <= FOREGROUND), same_object),
    ):
        types[applies] = index
        targets[applies] = target[applies]
    types[tp], targets[tp] = -1, -1
    return types, targets


def _mean_ap(labels: Rows, scores: Floats, hits: Flags, objects: Rows, counted: Flags) -> float:
    """The mean over the ``counted`` classes of AP at one IoU; a class without an object or detection is left out."""
    order = np.lexsort((-scores, labels))
    labels, hits = labels[order], hits[order]
    limits = np.searchsorted(labels, np.arange(len(objects) + 1))
    values = np.full(len(objects), np.nan)
    for label in np.flatnonzero(counted & ((objects > 0) | (np.diff(limits) > 0))):
        of_class = hits[limits[label] : limits[label + 1]]
        weights = np.ones((1, len(of_class)), dtype=np.float32)
        values[label] = interpolated_ap(of_class, weights, objects[label : label + 1])[0]
    return defined_mean(np.where(np.isnan(values) & counted & (objects > 0), 0.0, values))
