"""Runs of an imagined detector, whose detections are labels with errors of known number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.metrics import Detections, annotation_targets
from detseg.metrics.coco import coco_ap
from detseg.metrics.detections import concatenate, read_target
from detseg.report.evaluation import DetectionRun

HEIGHT, WIDTH = 240, 320
CLASSES = ("bolt", "nut", "washer")


def write_images(root: Path, images: int, seed: int = 0) -> DetectionAnnotations:
    """Photographs of noise with 1 to 6 objects each."""
    random = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    counts = random.integers(1, 7, images)
    total = int(counts.sum())
    sides = random.uniform(20, 110, (total, 2)) * [1.3, 0.8]
    corners = random.random((total, 2)) * ([WIDTH, HEIGHT] - sides)
    for image in range(images):
        noise = random.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(root / f"{seed}_{image}.jpg")
    return DetectionAnnotations(
        classes=CLASSES,
        category_ids=(1, 2, 3),
        root=root,
        files=np.array([f"{seed}_{image}.jpg" for image in range(images)]),
        image_ids=np.arange(images),
        sizes=np.tile(np.array([[HEIGHT, WIDTH]], dtype=np.int32), (images, 1)),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes=np.concatenate([corners, corners + sides], axis=1),
        labels=random.choice(3, total, p=[0.5, 0.3, 0.2]),
        areas=sides.prod(axis=1),
        crowd=np.zeros(total, bool),
        difficult=np.zeros(total, bool),
        ids=np.arange(total) + 1,
    )


def detect(annotations: DetectionAnnotations, seed: int = 0, recall: float = 0.85) -> Detections:
    """Most objects with moved corners, 4 % of them as another class, and some boxes of low scores anywhere."""
    random = np.random.default_rng(seed)
    images = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))
    kept = np.flatnonzero(random.random(len(images)) < recall)
    sides = np.tile(annotations.boxes[:, 2:] - annotations.boxes[:, :2], 2)
    boxes = (annotations.boxes + random.normal(0, 0.06, sides.shape) * sides)[kept]
    labels = np.where(random.random(len(kept)) < 0.04, random.integers(0, 3, len(kept)), annotations.labels[kept])
    false = len(kept) // 3
    corners = random.random((false, 2)) * [WIDTH - 60, HEIGHT - 60]
    anywhere = np.concatenate([corners, corners + random.uniform(15, 60, corners.shape)], axis=1)
    scores = 1 / (1 + np.exp(-np.concatenate([random.normal(1.8, 1, len(kept)), random.normal(-2, 1, false)])))
    columns = (
        np.concatenate([images[kept], random.integers(0, len(annotations), false)]),
        np.concatenate([boxes, anywhere]),
        np.concatenate([labels, random.integers(0, 3, false)]),
        scores,
    )
    order = np.argsort(columns[0], kind="stable")
    return Detections(*(column[order] for column in columns))


def run_of(
    annotations: DetectionAnnotations,
    detections: Detections,
    train: DetectionAnnotations | None = None,
    **known: object,
) -> DetectionRun:
    targets = annotation_targets(annotations, range(len(annotations)))
    truth = concatenate([read_target(target, annotations.masks is not None) for target in targets])
    metrics = coco_ap(truth, detections, annotations.classes)
    return DetectionRun(annotations, truth, detections, annotations.classes, metrics, train=train, **known)  # type: ignore[arg-type]


def with_boxes(annotations: DetectionAnnotations, boxes: np.ndarray) -> DetectionAnnotations:
    """The annotations with other boxes, in the order of their corners."""
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    boxes = np.concatenate([low, np.maximum(high, low + 1)], axis=1)
    return replace(annotations, boxes=boxes, areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
