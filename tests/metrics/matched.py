"""Generated detections with everything that measures of errors start from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.metrics import Detections, annotation_targets
from detseg.metrics.coco import Matches, detection_geometry, match_detections
from detseg.metrics.detections import GroundTruth, concatenate, read_target
from detseg.metrics.tide import Pairs, any_class_pairs
from tests.metrics import generated


class Matched(NamedTuple):
    annotations: DetectionAnnotations
    truth: GroundTruth
    detections: Detections
    matches: Matches
    pairs: Pairs


def matched(truth: GroundTruth, detections: Detections) -> tuple[Matches, Pairs]:
    areas, overlaps = detection_geometry(truth, detections, "boxes")
    matches = match_detections(truth, detections, areas, overlaps)
    return matches, any_class_pairs(truth, detections, matches, overlaps)


def make(seed: int, images: int = 30, classes: int = 4) -> Matched:
    """Objects of all classes but the last, crowds among them; no two detections have the same score."""
    annotations = generated.annotations(seed, images, classes + 1)
    detections = generated.detections(annotations, seed + 100)
    known = detections.labels < classes
    detections = Detections(*(column[known] for column in detections[:4]))
    scores = np.random.default_rng(seed).permutation(len(detections.scores)) + 0.5
    detections = detections._replace(scores=scores / len(scores))
    targets = annotation_targets(annotations, range(images))
    truth = concatenate([read_target(target, False) for target in targets])
    return Matched(annotations, truth, detections, *matched(truth, detections))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)
