"""The likely reason for an average precision of zero."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from detseg.metrics.detections import Detections, GroundTruth
from detseg.ops.boxes import iou

EXPLAINED_IMAGES = 200  # enough to see why nothing was detected


def explain_zero_ap(truth: GroundTruth, detections: Detections, classes: Sequence[str]) -> str:
    """Explain in one paragraph why AP is zero: compare the predictions with the annotated objects."""
    if not len(truth.boxes):
        return "AP is 0 because the validation images have no object."
    if not len(detections.scores):
        return (
            "AP is 0 because the model predicts no object: it has not been trained for long enough, or its score "
            "threshold is too high."
        )
    predicted, present = ({classes[label] for label in np.unique(one.labels)} for one in (detections, truth))
    count = len(detections.scores)
    return (
        f"AP is 0 although there are {count} predictions ({count / len(truth.sizes):.1f} per image) with scores up to "
        f"{detections.scores.max():.2f}. Predicted classes that occur in the validation images: "
        f"{', '.join(sorted(predicted & present)) or 'none'}; that do not: "
        f"{', '.join(sorted(predicted - present)) or 'none'}. The best box, of any class, has an IoU of "
        f"{_best_iou(truth, detections):.2f}. If scores or boxes are poor, train longer or check the learning rate; if "
        "boxes are good and classes are wrong, check the labels."
    )


def _best_iou(truth: GroundTruth, detections: Detections) -> float:
    best = 0.0
    for image in range(min(len(truth.sizes), EXPLAINED_IMAGES)):
        objects = torch.from_numpy(truth.boxes[truth.images == image])
        boxes = torch.from_numpy(detections.boxes[detections.images == image])
        if len(objects) and len(boxes):
            best = max(best, float(iou(boxes, objects).max()))
    return best
