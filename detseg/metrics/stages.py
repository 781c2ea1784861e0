"""Recall of proposals, and the stage of a two-stage detector that loses each object."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from detseg.metrics.coco import Matches
from detseg.metrics.detections import Detections, GroundTruth
from detseg.metrics.matching import AREAS, THRESHOLDS, Floats
from detseg.metrics.tide import FOREGROUND, Pairs
from detseg.ops.boxes import iou

TOP = (10, 30, 100, 300, 1000)  # best proposals of an image
OUTCOMES = ("detected", "mask error", "localization error", "classification error", "missed", "not proposed")


def proposal_overlaps(objects: Floats, proposals: Floats) -> Floats:
    """The best IoU (n, 5) of each object with the ``TOP`` proposals, (n, 4) and (m, 4) xyxy, best first."""
    overlaps = iou(torch.from_numpy(objects), torch.from_numpy(proposals)).numpy()
    return np.stack([overlaps[:, :count].max(axis=1, initial=0) for count in TOP], axis=1)


def proposal_recalls(overlaps: Floats, areas: Floats) -> dict[str, list[list[float]]]:
    """Recall by number of proposals (5) and IoU threshold (10), of all objects and by COCO's sizes."""
    reached = overlaps[:, :, None] >= THRESHOLDS
    values = {}
    for name, (low, high) in zip(("all", "small", "medium", "large"), AREAS, strict=True):
        of_size = reached[(areas >= low) & (areas <= high)]
        values[name] = of_size.mean(axis=0).round(4).tolist() if len(of_size) else []
    return values


def stage_outcomes(
    truth: GroundTruth,
    detections: Detections,
    matches: Matches,
    pairs: Pairs,
    proposed: Floats | None = None,
    masks: Matches | None = None,
) -> NDArray[np.int64]:
    """The outcome (N,), index in ``OUTCOMES``, of each object at IoU .5; -1 for objects that do not count.

    An object that is not detected has a localization or classification error if a false positive lies near it.
    ``proposed`` (N,) is the best IoU of a proposal, ``masks`` the matches of masks.
    """
    wrong = (matches.fp & 1 > 0)[pairs.places]  # detections of neighbours say nothing about an object
    same = detections.labels[matches.rows][pairs.places] == truth.labels[pairs.objects]
    outcomes = np.full(len(truth.labels), OUTCOMES.index("missed"))
    if proposed is not None:
        outcomes[proposed < FOREGROUND] = OUTCOMES.index("not proposed")
    outcomes[pairs.objects[wrong & ~same & (pairs.iou >= FOREGROUND)]] = OUTCOMES.index("classification error")
    outcomes[pairs.objects[wrong & same]] = OUTCOMES.index("localization error")
    outcomes[matches.objects[matches.tp & 1 > 0]] = OUTCOMES.index("detected")
    if masks is not None:
        masked = np.zeros(len(outcomes), dtype=bool)
        masked[masks.objects[masks.tp & 1 > 0]] = True
        outcomes[(outcomes == OUTCOMES.index("detected")) & ~masked] = OUTCOMES.index("mask error")
    outcomes[~matches.counted[:, 0]] = -1
    return outcomes
