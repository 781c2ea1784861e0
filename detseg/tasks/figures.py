"""The figures of an evaluation: measured, written down, and explained where they are zero."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.metrics import Detections, coco_ap, table, voc_ap
from detseg.ops.boxes import iou

MASK_SUMMARY = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
EXPLAINED_IMAGES = 200  # enough to see why nothing was found


def average_precision(
    annotations: DetectionAnnotations, detections: Detections, rows: NDArray[np.int64]
) -> dict[str, float]:
    """COCO's figures under their names, over the images ``rows`` alone.

    VOC's are called ``VOC07_AP``, ``VOC10_AP/<class>`` and so on, COCO's of masks ``mask_AP``, ``mask_AP/<class>``.
    """
    if len(rows) < len(annotations):
        annotations = annotations.subset(rows)
        detections = detections._replace(images=np.searchsorted(rows, detections.images))
    masks = {} if detections.masks is None or annotations.masks is None else coco_ap(annotations, detections, "masks")
    return {
        **coco_ap(annotations, detections),
        **{f"mask_{name}": value for name, value in masks.items()},
        **{f"VOC07_{name}": value for name, value in voc_ap(annotations, detections, 2007).items()},
        **{f"VOC10_{name}": value for name, value in voc_ap(annotations, detections, 2010).items()},
    }


def figures_table(figures: Mapping[str, float]) -> str:
    """The COCO numbers and the AP of every class, for a terminal."""

    def part(*prefixes: str, cut: int = 0) -> dict[str, float]:
        return {name[cut:]: value for name, value in figures.items() if name.startswith(prefixes)}

    masks = part("mask_", cut=5)
    overall = ", ".join(
        f"{name} {100 * masks[name]:.1f}" for name in MASK_SUMMARY if not math.isnan(masks.get(name, math.nan))
    )
    above = f"masks: {overall}\n\n" if masks else ""
    return above + table(
        part("AP", "AR_"),
        **({"mask": masks} if masks else {}),
        VOC07=part("VOC07_", cut=6),
        VOC10=part("VOC10_", cut=6),
    )


def write_figures(figures: Mapping[str, float], path: Path) -> None:
    """Write every figure by name as JSON; null where there was nothing to measure."""
    plain = {name: None if math.isnan(value) else value for name, value in figures.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain, indent=2) + "\n")


def explain_zero(annotations: DetectionAnnotations, detections: Detections) -> str:
    """Why AP is zero, in one paragraph: what was predicted, and how it relates to what is there."""
    if not len(annotations.boxes):
        return "AP is 0 because the validation images have no object."
    if not len(detections.scores):
        return "AP is 0 because nothing was predicted: the network has learned too little, or a threshold is too high."
    predicted = {annotations.classes[label] for label in np.unique(detections.labels)}
    present = {annotations.classes[label] for label in np.unique(annotations.labels)}
    count = len(detections.scores)
    return (
        f"AP is 0 though there are {count} predictions ({count / len(annotations):.1f} an image), the surest with a "
        f"score of {detections.scores.max():.2f}. Predicted classes that the data has: "
        f"{', '.join(sorted(predicted & present)) or 'none'}; that it lacks: "
        f"{', '.join(sorted(predicted - present)) or 'none'}. The best box, whatever its class, has an IoU of "
        f"{_best_iou(annotations, detections):.2f}. Where scores or boxes are poor, train longer or look at the "
        "learning rate; where boxes are good and classes wrong, look at the labels."
    )


def _best_iou(annotations: DetectionAnnotations, detections: Detections) -> float:
    best = 0.0
    for image in range(min(len(annotations), EXPLAINED_IMAGES)):
        truth = torch.from_numpy(annotations.boxes[annotations.objects(image)])
        found = torch.from_numpy(detections.boxes[detections.images == image])
        if len(truth) and len(found):
            best = max(best, float(iou(found, truth).max()))
    return best
