"""Confidence intervals of average precision: images are drawn anew, and matches with objects are kept.

No match depends on another image, so that a replicate is a weight for each image (Efron and Tibshirani 1993).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.metrics.coco import RECALLS, Matches
from detseg.metrics.detections import Detections, GroundTruth
from detseg.metrics.matching import THRESHOLDS, Floats

MAX_REPLICATES, MIN_REPLICATES = 1000, 100
WORK = 1e8  # detections times replicates, which take some seconds
BLOCK = 1 << 22  # weights of detections at once: it bounds the memory
CONFIDENCE = 0.95

Weights = NDArray[np.float32]


def image_weights(images: int, detections: int, seed: int = 0) -> Weights:
    """Draw how often (B, I) each image is in each replicate; there are fewer for more ``detections``."""
    replicates = int(np.clip(WORK / max(detections, 1), MIN_REPLICATES, MAX_REPLICATES))
    counts = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=replicates)
    return counts.astype(np.float32)


def bootstrap_ap(
    truth: GroundTruth, detections: Detections, matches: Matches, classes: int, weights: Weights
) -> NDArray[np.float32]:
    """AP of each replicate, class and IoU threshold (B, K, 10), NaN without an object; ``weights`` are (B, I)."""
    counted = matches.counted[:, 0]
    labels = detections.labels[matches.rows]
    limits = np.searchsorted(labels, np.arange(classes + 1))
    images = detections.images[matches.rows]
    values = np.full((len(weights), classes, len(THRESHOLDS)), np.nan, dtype=np.float32)
    for label in range(classes):
        objects = weights[:, truth.images[counted & (truth.labels == label)]].sum(axis=1)
        of_class = slice(limits[label], limits[label + 1])
        last = np.flatnonzero(matches.tp[of_class])[-1:] + 1  # nothing after the last true positive counts
        of_class = slice(limits[label], limits[label] + int(last.sum()))
        step = max(1, BLOCK // max(1, of_class.stop - of_class.start))
        for start in range(0, len(weights), step):
            replicates = slice(start, start + step)
            drawn = weights[replicates][:, images[of_class]]
            totals = np.cumsum(drawn, axis=1, dtype=np.float64)
            for column in range(len(THRESHOLDS)):
                bit = np.uint64(1 << column)
                tp, fp = (flags[of_class] & bit > 0 for flags in (matches.tp, matches.fp))
                counts = tp | fp
                if counts.all():
                    average = interpolated_ap(tp, drawn, objects[replicates], totals)
                else:
                    average = interpolated_ap(tp[counts], drawn[:, counts], objects[replicates])
                values[replicates, label, column] = np.where(objects[replicates] > 0, average, np.nan)
    return values


def interpolated_ap(
    tp: NDArray[np.bool_], weights: Weights, objects: NDArray[Any], totals: Floats | None = None
) -> Floats:
    """COCO's AP (B,) of n detections by descending score that count ``weights`` (B, n) times; 0 without ``objects``.

    The precision is the highest at each of the 101 recalls or above. ``totals`` are the cumulative sums of the weights.
    """
    columns = np.flatnonzero(tp)
    hits = np.cumsum(weights[:, columns], axis=1, dtype=np.float64)
    totals = np.cumsum(weights, axis=1, dtype=np.float64) if totals is None else totals
    precision = hits / np.maximum(totals[:, columns], 1)
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    many = np.maximum(np.asarray(objects, dtype=np.float64), 1)[:, None]
    reached = np.searchsorted(RECALLS, hits / many, side="right")
    reached[hits == 0] = 0
    average = (highest * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALLS)
    return np.where(np.asarray(objects) > 0, average, 0.0)


def interval(replicates: ArrayLike) -> tuple[float, float]:
    """The percentile interval at ``CONFIDENCE`` of the values (B,) that are defined; NaN if none is."""
    values = np.asarray(replicates, dtype=np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
