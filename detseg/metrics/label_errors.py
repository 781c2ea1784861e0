"""Suspected label errors: objects and places whose labels are probably wrong, ranked by a score."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch

from detseg.metrics.coco import Matches, detection_geometry
from detseg.metrics.detections import Detections, GroundTruth
from detseg.metrics.matching import Floats, Rows
from detseg.metrics.tide import FOREGROUND, Flags, Pairs, any_class_pairs

LabelErrorKind = Literal["swapped", "localization error", "spurious", "missing"]
KINDS: tuple[LabelErrorKind, ...] = ("swapped", "localization error", "spurious")  # of labelled objects
PRIOR = 0.01  # share of wrong labels of each kind
NEIGHBOURS = 50  # detections whose precision is the weight of a score
MAX_MISSING = 5000  # false positives that may show a missing label


class LabelError(NamedTuple):
    """A suspected error: of an object, or of a place that has none."""

    kind: LabelErrorKind
    score: float
    image: int
    object: int  # row of the ground truth, -1 if missing
    detection: int  # row of the detections, -1 if spurious


def suspected_label_errors(
    truth: GroundTruth, detections: Detections, matches: Matches, most: int = 1000
) -> list[LabelError]:
    """Rank labels that the detections contradict, and objects that only they find, by a score from 0 to 1.

    A detection of score s has the weight w: the precision of the detections of about that score. A label may be

    - swapped: w of the best false positive of another class at IoU .5 or more, less w of the best of its own class;
    - a localization error: w (1 - IoU) of the best false positive of its class that overlaps it, if none has IoU .5;
    - spurious: u (1 + v) / 2 with u = 1 less the largest w IoU of any detection, or less the contradiction above if
      that is larger, and v = w (1 - IoU) of the best true positive of its class that overlaps it, if none has IoU .5:
      a box beside a detected object is often a part or a copy of it;
    - missing: w (1 - the largest IoU with any object) of a false positive that shows no localization error, the best of
      those that overlap each other.

    The detector contradicts right labels too, the more often the weaker it is: if as many as a share r of all objects
    are contradicted as strongly in the same way, the score is the contradiction times ``PRIOR`` / (``PRIOR`` + r), the
    probability of a wrong label by Bayes' rule. For spurious objects, it is multiplied by the recall of their class.
    """
    _, overlaps = detection_geometry(truth, detections, "boxes")
    pairs = any_class_pairs(truth, detections, matches, overlaps, lowest=np.finfo(np.float64).tiny)
    weights = _weights(detections.scores[matches.rows], matches.tp & 1 > 0)
    count, counted = len(truth.labels), matches.counted[:, 0]
    contradictions, by = _contradictions(truth, detections, matches, pairs, weights)
    suspicion = np.stack([_posterior(one, counted.sum()) for one in contradictions * counted])
    suspicion[2] *= _recall(truth, matches)[truth.labels]
    kind = suspicion.argmax(axis=0)
    rows = np.append(matches.rows, -1)[by[kind, np.arange(count)]]
    errors = [
        LabelError(KINDS[kind[row]], float(suspicion[kind[row], row]), int(truth.images[row]), row, int(rows[row]))
        for row in np.argsort(-suspicion.max(axis=0), kind="stable")[:most].tolist()
        if suspicion[kind[row], row] > 0
    ]
    nearest, _ = pairs.best(np.ones(len(pairs.places), dtype=bool), len(weights))
    missing = weights * (1 - nearest) * ((matches.fp & 1 > 0) & (nearest < FOREGROUND))
    missing[by[1][by[1] >= 0]] = 0
    places = _suppress(detections, matches.rows, missing)
    for place, score in zip(places.tolist(), _posterior(missing[places], counted.sum()).tolist(), strict=True):
        row = int(matches.rows[place])
        errors.append(LabelError("missing", score, int(detections.images[row]), -1, row))
    return sorted(errors, key=lambda one: -one.score)[:most]


def _contradictions(
    truth: GroundTruth, detections: Detections, matches: Matches, pairs: Pairs, weights: Floats
) -> tuple[Floats, Rows]:
    """Contradictions (3, N) of the objects, in the order of ``KINDS``, and the places of the detections, or -1."""
    count, weight = len(truth.labels), weights[pairs.places]
    same = detections.labels[matches.rows][pairs.places] == truth.labels[pairs.objects]
    localized = pairs.iou >= FOREGROUND
    fp, tp = ((one & 1 > 0)[pairs.places] for one in (matches.fp, matches.tp))
    right, _ = _best(pairs, weight * (same & localized), count)
    wrong, wrong_by = _best(pairs, weight * (~same & localized & fp), count)
    alone = (_best(pairs, pairs.iou * same, count)[0] < FOREGROUND)[pairs.objects]
    shifted, shifted_by = _best(pairs, weight * (1 - pairs.iou) * (same & alone & fp), count)
    others, _ = _best(pairs, weight * (1 - pairs.iou) * (same & alone & tp), count)
    unseen = 1 - np.maximum(_best(pairs, weight * pairs.iou, count)[0], shifted)
    contradictions = np.stack([np.clip(wrong - right, 0, 1), shifted, unseen * (1 + others) / 2])
    return contradictions, np.stack([wrong_by, shifted_by, np.full(count, -1)])


def _posterior(contradictions: Floats, objects: int) -> Floats:
    """Contradictions (n,) times ``PRIOR`` / (``PRIOR`` + r), where r ``objects`` of them are as strong or stronger."""
    stronger = len(contradictions) - np.searchsorted(np.sort(contradictions), contradictions)
    return np.asarray(contradictions * PRIOR / (PRIOR + stronger / max(1, objects)))


def _recall(truth: GroundTruth, matches: Matches) -> Floats:
    """The share of the objects of each class that are detected at IoU .5, at any score."""
    counted = matches.counted[:, 0]
    classes = int(truth.labels.max(initial=0)) + 1
    detected = np.unique(matches.objects[matches.tp & 1 > 0])
    hits, objects = (np.bincount(truth.labels[rows], minlength=classes) for rows in (detected, np.flatnonzero(counted)))
    return hits / np.maximum(objects, 1)


def _suppress(detections: Detections, candidates: Rows, scores: Floats) -> Rows:
    """Places of the best positive ``scores``, best first, without those that overlap a better one of their image."""
    from torchvision.ops import batched_nms  # takes seconds to import

    order = np.argsort(-scores, kind="stable")
    places = order[scores[order] > 0][:MAX_MISSING]
    columns = (detections.boxes[candidates[places]], scores[places], detections.images[candidates[places]])
    return np.asarray(places[batched_nms(*map(torch.from_numpy, columns), FOREGROUND).numpy()])


def _weights(scores: Floats, tp: Flags) -> Floats:
    """The precision of about ``NEIGHBOURS`` detections of the nearest scores, never less for a higher score."""
    from sklearn.isotonic import isotonic_regression

    order = np.argsort(scores, kind="stable")
    weights = np.zeros(len(scores))
    if len(scores):
        # A true positive more and a false one more: of few detections nothing is certain.
        window = np.ones(min(NEIGHBOURS, len(scores)))
        hits = np.convolve(tp[order], window, "same") + 1
        weights[order] = isotonic_regression(hits / (np.convolve(np.ones(len(scores)), window, "same") + 2))
    return weights


def _best(pairs: Pairs, values: Floats, count: int) -> tuple[Floats, Rows]:
    """The highest of the ``values`` (P,) of each of ``count`` objects, 0 without, and the place of its detection."""
    best, places = np.zeros(count), np.full(count, -1)
    order = np.argsort(values, kind="stable")
    order = order[values[order] > 0]
    best[pairs.objects[order]], places[pairs.objects[order]] = values[order], pairs.places[order]
    return best, places
