"""Fusion of several predictions of one image into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from detseg.inference.results import ClassificationResult, DetectionResult
from detseg.ops.rle import from_string, to_string, vote

IOU_THRESHOLD = 0.55  # of boxes of one object, as in the reference implementation, ensemble-boxes

Boxes = NDArray[np.floating]


def weighted_boxes_fusion(
    boxes: Boxes, scores: Boxes, labels: NDArray[np.int64], predictions: int, iou_threshold: float = IOU_THRESHOLD
) -> tuple[Boxes, Boxes, list[list[int]]]:
    """Average the boxes of each object, weighted by their scores (Solovyev et al. 2019, arXiv:1910.13302, section 3).

    ``boxes`` (n, 4), ``scores`` (n,) and ``labels`` (n,) are those of all ``predictions`` together. A box joins the
    average of its class that it overlaps most, if by more than ``iou_threshold``. The score is the mean score, less
    where fewer boxes than predictions agree. Boxes without area, or of score 0, are left out.

    Returns boxes (m, 4) and scores (m,), best first, and the rows of the boxes that each is the average of, best first.
    """
    boxes, scores = boxes.astype(np.float64), scores.astype(np.float64)
    candidates = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (scores > 0))
    candidates = candidates[np.argsort(-scores[candidates], kind="stable")]
    fused: list[Boxes] = [np.zeros((0, 4))]
    clusters: list[list[int]] = []
    for label in np.unique(labels[candidates]):
        means, members = _cluster(boxes, scores, candidates[labels[candidates] == label], iou_threshold)
        fused.append(means)
        clusters += members
    means = np.concatenate(fused)
    totals = [scores[cluster].mean() * min(len(cluster), predictions) / predictions for cluster in clusters]
    order = np.argsort(-np.array(totals), kind="stable").tolist()
    return means[order], np.array(totals)[order], [clusters[position] for position in order]


def _cluster(
    boxes: Boxes, scores: Boxes, candidates: NDArray[np.int64], iou_threshold: float
) -> tuple[Boxes, list[list[int]]]:
    """Cluster the boxes of one class, best first; return the average of each cluster and its rows."""
    means = np.zeros((len(candidates), 4))
    clusters: list[list[int]] = []
    for row in candidates.tolist():
        overlaps = iou(means[: len(clusters)], boxes[row])
        best = int(overlaps.argmax()) if clusters else -1
        if clusters and overlaps[best] > iou_threshold:
            clusters[best].append(row)
            means[best] = np.average(boxes[clusters[best]], axis=0, weights=scores[clusters[best]])
        else:
            means[len(clusters)] = boxes[row]
            clusters.append([row])
    return means[: len(clusters)], clusters


def iou(a: Boxes, b: Boxes) -> Boxes:
    """IoU (...) of boxes (..., 4); 0 where both have no area."""
    common = intersection(a, b)
    areas = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1)
    return np.asarray(common / np.maximum(areas - common, 1e-12))


def intersection(a: Boxes, b: Boxes) -> Boxes:
    """Area (...) that boxes (..., 4) have in common."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return np.asarray(sides.clip(0).prod(axis=-1))


def fuse_detections(results: Sequence[DetectionResult]) -> DetectionResult:
    """Fuse the detections of one image by ``weighted_boxes_fusion``.

    A fused mask contains the pixels of at least half of the masks, weighted by their scores.
    """
    if len(results) == 1:
        return results[0]
    boxes, scores, labels = (
        np.concatenate([getattr(result, name) for result in results]) for name in ("boxes", "scores", "labels")
    )
    fused_boxes, fused_scores, clusters = weighted_boxes_fusion(boxes, scores, labels, len(results))
    rles = None
    if all(result.mask_rles is not None for result in results):
        counts = [rle for result in results for rle in result.mask_rles or ()]
        rles = [_average_mask([counts[row] for row in cluster], scores[cluster]) for cluster in clusters]
    return replace(
        results[0],
        boxes=fused_boxes.astype(np.float32),
        scores=fused_scores.astype(np.float32),
        labels=labels[[cluster[0] for cluster in clusters]],
        mask_rles=rles,
    )


def _average_mask(rles: Sequence[bytes], scores: Boxes) -> bytes:
    if len(rles) == 1:
        return rles[0]
    return to_string(vote([from_string(rle) for rle in rles], scores.tolist(), float(scores.sum()) / 2))


def fuse_classifications(results: Sequence[ClassificationResult]) -> ClassificationResult:
    """Average the probabilities of one image."""
    scores = np.stack([result.scores[np.argsort(result.labels)] for result in results])
    mean = scores.astype(np.float64).sum(axis=0) / len(results)
    order = np.argsort(-mean, kind="stable")
    return replace(results[0], labels=order, scores=mean[order].astype(np.float32))
