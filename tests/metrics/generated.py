"""Ground truth and detections made from a seed, with everything in them that makes a benchmark hard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.metrics import DetectionMetric, Detections, annotation_targets


def annotations(
    seed: int, images: int = 12, classes: int = 5, objects: int = 9, *, crowds: bool = True, names: bool = False
) -> DetectionAnnotations:
    """Images of 320 x 240 with 0 to ``objects`` boxes; ids of categories have gaps, the last class has no object.

    Corners are whole numbers, so that ties of IoU happen. ``names`` gives the images VOC's ids, and makes some objects
    difficult; ``crowds`` makes some of them crowds.
    """
    random = np.random.default_rng(seed)
    counts = random.integers(0, objects + 1, images)
    counts[1::4] = 0
    total = int(counts.sum())
    sides = np.where(random.random((total, 1)) < 0.5, random.integers(4, 40, (total, 2)), 0)
    sides = np.where(sides > 0, sides, random.integers(20, 200, (total, 2)))
    corners = random.integers(0, 100, (total, 2))
    ids = random.permutation(10 * images)[:images]
    return DetectionAnnotations(
        classes=tuple(f"class{label}" for label in range(classes)),
        category_ids=tuple(3 + 7 * label for label in range(classes)),
        root=Path("nowhere"),
        files=np.array([f"{image}.jpg" for image in ids]),
        image_ids=np.array([f"2007_{image:06d}" for image in ids]) if names else ids.astype(np.int64),
        sizes=np.tile(np.array([[240, 320]], dtype=np.int32), (images, 1)),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=np.concatenate([corners, corners + sides], axis=1).astype(np.float64),
        labels=random.integers(0, max(1, classes - 1), total),
        areas=(sides.prod(axis=1) * random.uniform(0.5, 1, total)),
        crowd=(random.random(total) < 0.15) & crowds,
        difficult=(random.random(total) < 0.2) & names,
        ids=random.permutation(10 * total + 1)[:total] + 1,
    )


def detections(truth: DetectionAnnotations, seed: int, false: int = 6) -> Detections:
    """Detect each object up to three times with moved corners, and ``false`` boxes an image anywhere.

    Scores have two decimals, so that ties happen.
    """
    random = np.random.default_rng(seed)
    counts = np.diff(truth.offsets)
    sources = random.permutation(np.repeat(np.arange(len(truth.labels)), random.integers(0, 4, len(truth.labels))))
    corners = random.uniform(0, 200, (false * len(truth), 2))
    anywhere = np.concatenate([corners, corners + random.uniform(5, 100, corners.shape)], axis=1)
    moved = truth.boxes[sources] + random.integers(-6, 7, (len(sources), 4))
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    images = np.concatenate([np.repeat(np.arange(len(truth)), counts)[sources], np.arange(len(anywhere)) % len(truth)])
    labels = np.concatenate([truth.labels[sources], random.integers(0, len(truth.classes), len(anywhere))])
    order = np.argsort(images, kind="stable")
    return Detections(
        images[order],
        np.concatenate([moved, anywhere])[order],
        labels[order],
        np.round(random.random(len(order)), 2),
    )


def no_detections() -> Detections:
    return Detections(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))


def predictions(detected: Detections, images: int) -> list[dict]:
    """Detections as torchmetrics takes them, one dictionary for each image."""
    dicts = []
    for image in range(images):
        rows = np.flatnonzero(detected.images == image)
        columns = {"boxes": detected.boxes, "labels": detected.labels, "scores": detected.scores}
        dicts.append({name: torch.from_numpy(column[rows]) for name, column in columns.items()})
        if detected.masks is not None:
            dicts[-1]["masks"] = list(detected.masks[rows])
    return dicts


def compute(metric: DetectionMetric, truth: DetectionAnnotations, detected: Detections) -> dict[str, float]:
    """The values of a metric that is updated with a few images at a time."""
    preds, target = predictions(detected, len(truth)), annotation_targets(truth, range(len(truth)))
    for start in range(0, len(truth), 5):
        metric.update(preds[start : start + 5], target[start : start + 5])
    return metric.compute()
