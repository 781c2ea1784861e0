"""Weighted boxes fusion against a plain transcription of the published implementation, ensemble-boxes 1.0.9."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from torchvision.ops import box_iou

from detseg.inference import ClassificationResult, DetectionResult
from detseg.inference.fusion import fuse_classifications, fuse_detections, weighted_boxes_fusion
from detseg.ops.rle import MaskWindow, encode, to_string

CLASSES = ("a", "b", "c")


def reference(boxes: list[Any], scores: list[Any], labels: list[Any], threshold: float) -> list[list[float]]:
    """Return (label, score, x1, y1, x2, y2) of the fused boxes of several models, best first."""
    overall = []
    for label in {label for model in labels for label in model.tolist()}:
        candidates = [
            (score, box)
            for model in range(len(boxes))
            for score, box, own in zip(scores[model], boxes[model], labels[model], strict=True)
            if own == label and (box[2] - box[0]) * (box[3] - box[1]) > 0
        ]
        clusters: list[list[Any]] = []
        means: list[Any] = []
        for score, box in sorted(candidates, key=lambda one: -one[0]):
            ious = [float(box_iou(torch.tensor(mean)[None], torch.tensor(box)[None])) for mean in means]
            if ious and max(ious) > threshold:
                best = int(np.argmax(ious))
                clusters[best].append((score, box))
                means[best] = sum(s * b for s, b in clusters[best]) / sum(s for s, _ in clusters[best])
            else:
                clusters.append([(score, box)])
                means.append(box)
        for cluster, mean in zip(clusters, means, strict=True):
            score = sum(s for s, _ in cluster) / len(cluster) * min(len(boxes), len(cluster)) / len(boxes)
            overall.append([float(label), score, *mean])
    return sorted(overall, key=lambda one: -one[1])


def random_boxes(generator: np.random.Generator, objects: NDArray[Any]) -> tuple[Any, Any, Any]:
    """Boxes near some of the objects (n, 4), as a model would find them, and a box without area."""
    rows = generator.integers(len(objects), size=generator.integers(1, 12))
    boxes = objects[rows] + generator.normal(0, 0.02, (len(rows), 4))
    boxes = np.concatenate([np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4), [[0.5, 0.5, 0.5, 0.7]]])
    return boxes, generator.random(len(boxes)), np.append(rows % 3, 0)


@pytest.mark.parametrize("seed", range(8))
def test_fusion_equals_the_published_one(seed: int) -> None:
    generator = np.random.default_rng(seed)
    corners = generator.random((6, 2)) * 0.6
    objects = np.concatenate([corners, corners + 0.1 + 0.3 * generator.random((6, 2))], axis=1)
    models = [random_boxes(generator, objects) for _ in range(1 + seed % 4)]
    boxes, scores, labels = zip(*models, strict=True)
    threshold = (0.3, 0.55)[seed % 2]
    expected = np.array(reference(list(boxes), list(scores), list(labels), threshold))
    flat = [np.concatenate(column) for column in (boxes, scores, labels)]
    fused, totals, clusters = weighted_boxes_fusion(*flat, len(models), threshold)
    assert len(models) == 1 or len(fused) < len(flat[0]) - len(models)  # something was fused
    of_label = flat[2][[cluster[0] for cluster in clusters]]
    assert_allclose(np.column_stack([of_label, totals, fused]), expected, atol=1e-12)


def test_nothing_fuses_to_nothing() -> None:
    boxes, scores, clusters = weighted_boxes_fusion(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), 3)
    assert (boxes.shape, scores.shape, clusters) == ((0, 4), (0,), [])


def detections(masks: list[NDArray[np.bool_]], scores: list[float]) -> DetectionResult:
    rles = [to_string(encode(MaskWindow(0, 0, mask.T), *mask.shape)) for mask in masks]
    boxes = np.array([[2, 3, 12, 13]] * len(masks), dtype=np.float32)
    return DetectionResult(
        image_size=masks[0].shape[:2],  # type: ignore[arg-type]
        class_names=CLASSES,
        boxes=boxes,
        labels=np.ones(len(masks), np.int64),
        scores=np.array(scores, dtype=np.float32),
        mask_rles=rles,
    )


def test_masks_are_averaged() -> None:
    masks = np.random.default_rng(0).random((3, 17, 14)) < 0.5
    scores = [0.9, 0.4, 0.3]
    fused = fuse_detections([detections([mask], [score]) for mask, score in zip(masks, scores, strict=True)])
    assert fused.masks is not None
    np.testing.assert_array_equal(fused.masks[0], np.tensordot(scores, masks, 1) >= sum(scores) / 2)
    assert fused.scores == pytest.approx([sum(scores) / 3])
    alone = fuse_detections([detections([masks[0]], [0.9]), detections([masks[0]], [0.9])])
    np.testing.assert_array_equal(alone.masks, masks[:1])  # type: ignore[arg-type]


def test_probabilities_are_averaged() -> None:
    shared: dict[str, Any] = {"image_size": (4, 4), "class_names": CLASSES}
    first = ClassificationResult(**shared, labels=np.array([2, 0, 1]), scores=np.array([0.7, 0.2, 0.1], np.float32))
    other = ClassificationResult(**shared, labels=np.array([0, 1, 2]), scores=np.array([0.8, 0.1, 0.1], np.float32))
    fused = fuse_classifications([first, other])
    assert fused.top_k() == pytest.approx({"a": 0.5, "c": 0.4, "b": 0.1})
