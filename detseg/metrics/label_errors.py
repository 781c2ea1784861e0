"""Suspected label errors: objects and places whose labels are probably wrong, ranked by a score."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from detseg.metrics.coco import Matches
from detseg.metrics.detections import Detections, GroundTruth
from detseg.metrics.matching import Floats, Rows
from detseg.metrics.tide import Pairs
from detseg.ops.boxes import iou

LabelErrorKind = Literal["swapped", "badly placed", "spurious", "missing"]
KINDS: tuple[LabelErrorKind, ...] = ("swapped", "badly placed", "spurious")  # of labelled objects
PRIOR = 0.01  # share of wrong labels of each kind
WELL_PLACED = 0.7  # IoU
NEIGHBOURS = 50  # detections whose precision says what a score is worth


class LabelError(NamedTuple):
    """A suspected error: of an object, or of a place that has none."""

    kind: LabelErrorKind
    score: float
    image: int
    object: int  # row of the ground truth, -1 if missing
    detection: int  # row of the detections, -1 if spurious


def suspected_label_errors(
    truth: GroundTruth, detections: Detections, matches: Matches, pairs: Pairs, most: int = 1000
) -> list[LabelError]:
    """Rank objects whose label the detections contradict, and places that they claim, by a score from 0 to 1.

    A detection of score s speaks with its worth w: the precision of the detections of about that score. An object is
    contradicted by

    - swapped: w of the best detection of another class at IoU .5 or more, less that of the best of the object's class;
    - badly placed: w (1 - IoU) of the best detection of its class at IoU .1 to .7, if none overlaps it by more;
    - spurious: 1 less the largest w IoU of all detections that overlap it. The score is that times recall of its class.

    The detector contradicts right labels too, the more often the weaker it is: with the share r of all objects that are
    contradicted as strongly, the score is the contradiction times ``PRIOR`` / (``PRIOR`` + r), the probability of a
    wrong label by Bayes' rule. A missing object has the score w (1 - the largest IoU with any object of the image) of a
    detection that no better one suppresses, and that contradicts the place of no object.
    """
    labels, scores = detections.labels[matches.rows], detections.scores[matches.rows]
    worth = _worth(scores, matches.tp & 1 > 0)
    same = labels[pairs.places] == truth.labels[pairs.objects]
    count, counted = len(truth.labels), matches.counted[:, 0]
    spoken = worth[pairs.places]
    right, _ = _best(pairs, spoken * (same & (pairs.iou >= 0.5)), count)
    wrong, by = _best(pairs, spoken * (~same & (pairs.iou >= 0.5)), count)
    best_iou, _ = _best(pairs, pairs.iou * same, count)
    shifted, shifted_by = _best(pairs, spoken * (1 - pairs.iou) * same, count)
    seen, _ = _best(pairs, spoken * pairs.iou, count)
    contradictions = np.stack(
        [
            np.clip(wrong - right, 0, 1),
            np.where(best_iou < WELL_PLACED, shifted, 0),
            1 - seen,
        ]
    )
    suspicion = np.stack([one * _rarity(one, counted) for one in contradictions]) * counted
    suspicion[2] *= _recall(truth, matches)[truth.labels]
    kind, detection = suspicion.argmax(axis=0), np.stack([by, shifted_by, np.full(count, -1)])
    rows = [
        LabelError(
            KINDS[kind[row]],
            float(suspicion[kind[row], row]),
            int(truth.images[row]),
            row,
            int(np.append(matches.rows, -1)[detection[kind[row], row]]),
        )
        for row in np.argsort(-suspicion.max(axis=0), kind="stable")[:most].tolist()
        if suspicion[kind[row], row] > 0
    ]
    rows += _missing(truth, detections, matches, pairs, worth, shifted_by[contradictions[1] > 0])[:most]
    return sorted(rows, key=lambda one: -one.score)[:most]


def _rarity(contradictions: Floats, counted: NDArray[np.bool_]) -> Floats:
    """``PRIOR`` / (``PRIOR`` + r) with the share r (n,) of the counted objects contradicted as strongly or more."""
    ordered = np.sort(contradictions[counted])
    stronger = len(ordered) - np.searchsorted(ordered, contradictions)
    return np.asarray(PRIOR / (PRIOR + stronger / max(1, len(ordered))))


def _recall(truth: GroundTruth, matches: Matches) -> Floats:
    """The share of the objects of each class that are detected at IoU .5, at any score."""
    counted = matches.counted[:, 0]
    classes = int(truth.labels.max(initial=0)) + 1
    detected = np.unique(matches.objects[matches.tp & 1 > 0])
    hits, objects = (np.bincount(truth.labels[rows], minlength=classes) for rows in (detected, np.flatnonzero(counted)))
    return hits / np.maximum(objects, 1)


def _missing(
    truth: GroundTruth, detections: Detections, matches: Matches, pairs: Pairs, worth: Floats, explained: Rows
) -> list[LabelError]:
    """Suspect false positives far from every object; of overlapping ones, keep the best.

    ``explained`` are the places of those that show an object to be badly placed.
    """
    nearest, _ = pairs.best(np.ones(len(pairs.places), dtype=bool), len(matches.rows))
    score = worth * (1 - nearest) * (matches.fp & 1 > 0) * (nearest < 0.5)
    score[explained] = 0
    errors, boxes_of = [], dict[int, list[Floats]]()
    for place in np.argsort(-score, kind="stable")[:5000].tolist():
        if score[place] <= 0:
            break
        row = int(matches.rows[place])
        image, box = int(detections.images[row]), detections.boxes[row]
        others = boxes_of.setdefault(image, [])
        if not others or iou(torch.from_numpy(box[None]), torch.from_numpy(np.stack(others))).max() < 0.5:
            others.append(box)
            errors.append(LabelError("missing", float(score[place]), image, -1, row))
    return errors


def _worth(scores: Floats, tp: NDArray[np.bool_]) -> Floats:
    """The precision of about ``NEIGHBOURS`` detections of the nearest scores, never less for a higher score."""
    from sklearn.isotonic import isotonic_regression

    order = np.argsort(scores, kind="stable")
    worth = np.zeros(len(scores))
    if len(scores):
        # A true positive more and a false one more: of few detections nothing is certain.
        window = np.ones(min(NEIGHBOURS, len(scores)))
        hits = np.convolve(tp[order], window, "same") + 1
        worth[order] = isotonic_regression(hits / (np.convolve(np.ones(len(scores)), window, "same") + 2))
    return worth


def _best(pairs: Pairs, values: Floats, count: int) -> tuple[Floats, Rows]:
    """The highest of the ``values`` (P,) of each of ``count`` objects, 0 without, and the place of its detection."""
    best, places = np.zeros(count), np.full(count, -1)
    order = np.argsort(values, kind="stable")
    order = order[values[order] > 0]
    best[pairs.objects[order]], places[pairs.objects[order]] = values[order], pairs.places[order]
    return best, places
