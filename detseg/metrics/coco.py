"""Average precision and recall as the COCO benchmark defines them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from faster_coco_eval.core import mask as coco_masks
from numpy.typing import NDArray

from detseg.metrics.base import defined_mean
from detseg.metrics.detection_metric import DetectionMetric
from detseg.metrics.detections import Detections, GroundTruth
from detseg.metrics.matching import (
    AREAS,
    COMBINATIONS,
    THRESHOLDS,
    Bits,
    Floats,
    Overlaps,
    Rows,
    bits,
    inside,
    match,
    rank,
    unpack,
)
from detseg.metrics.table import format_values, percent, side_by_side

log = logging.getLogger(__name__)

RECALLS = np.linspace(0, 1, 101)
COUNTS = (1, 10, 100)  # detections of one class in one image
SUMMARY: tuple[str, ...] = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
SUMMARY += ("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large")
MASKS = "mask_"  # begins the names of values of masks


class CocoAP(DetectionMetric):
    """The 12 numbers of the COCO benchmark and the AP of every class, all between 0 and 1, equal to pycocotools'.

    ``AP`` is the mean over the IoU thresholds .50:.05:.95, ``AP_small`` and so on that of the objects whose areas lie
    in the range, ``AR_10`` the recall with 10 detections of a class in an image; everything else counts 100.
    ``AP/CLASS`` is the AP of one class. If both predictions and targets have masks, the same values of masks follow as
    ``mask_AP``, ``mask_AP/CLASS`` and so on.

    Crowds are ignored as COCO does. Difficult objects, which COCO does not have, are too: detecting one is neither a
    true nor a false positive, as in VOC. A value that no object defines is NaN (pycocotools: -1).

    Used like ``torchmetrics.detection.MeanAveragePrecision``:

        metric = CocoAP()
        metric.update(preds, target)
        metric.compute()["AP"]
    """

    uses_masks = True
    monitor_metrics = ("AP", "AP50")
    columns = MappingProxyType({"AP": "AP", "mask": f"{MASKS}AP"})

    def compute(self) -> dict[str, float]:
        truth, detections, classes = self.collect()
        values = coco_ap(truth, detections, classes)
        if detections.masks is not None and truth.masks is not None:
            of_masks = coco_ap(truth, detections, classes, "masks")
            values |= {f"{MASKS}{name}": value for name, value in of_masks.items()}
        return values

    def summary(self, values: Mapping[str, float]) -> list[str]:
        return format_summary(values, SUMMARY)


def format_summary(values: Mapping[str, float], names: Sequence[str]) -> list[str]:
    """Format the values of these names, the APs of masks in a line before them."""
    of_masks = {name: values.get(f"{MASKS}{name}", math.nan) for name in names if name.startswith("AP")}
    shown = [f"{name} {percent(value)}" for name, value in of_masks.items() if not math.isnan(value)]
    numbers = format_values({name: values[name] for name in names if name in values})
    return [*([f"masks: {', '.join(shown)}", ""] if shown else []), *(side_by_side(numbers, 3) if numbers else [])]


def coco_ap(
    truth: GroundTruth, detections: Detections, classes: tuple[str, ...], of: Literal["boxes", "masks"] = "boxes"
) -> dict[str, float]:
    """The values of ``CocoAP`` of boxes or of masks, whose pixels overlap then."""
    precision, recall = evaluate(truth, detections, len(classes), *detection_geometry(truth, detections, of))
    return summarize(precision, recall, classes, COUNTS)


def summarize(precision: Floats, recall: Floats, classes: tuple[str, ...], counts: Sequence[int]) -> dict[str, float]:
    """The means of the values that ``evaluate`` returns, by name."""
    values = {"AP": precision[:, 0], "AP50": precision[:, 0, 0], "AP75": precision[:, 0, 5]}
    sizes = {"small": 1, "medium": 2, "large": 3}
    values |= {f"AP_{size}": precision[:, area] for size, area in sizes.items()}
    values |= {f"AR_{count}": recall[:, row, 0] for row, count in enumerate(counts)}
    values |= {f"AR_{size}": recall[:, -1, area] for size, area in sizes.items()}
    values |= {f"AP/{name}": precision[label, 0] for label, name in enumerate(classes)}
    return {name: defined_mean(value) for name, value in values.items()}


def coco_results(annotations: Any, detections: Detections) -> list[dict[str, Any]]:
    """Detections in the COCO result format: the data set's own image and category ids, boxes as x, y, width, height.

    ``annotations`` are the ``DetectionAnnotations`` in which ``detections.images`` are rows. Masks are run-length
    encodings. (Where a result has both, pycocotools takes its area from the box: remove ``bbox`` for its AP of small,
    medium and large masks.) Detections of classes that the data set does not have are left out, and counted in the log.
    """
    categories = np.asarray(annotations.category_ids, dtype=np.int64)[detections.labels]
    known = categories >= 0
    if not known.all():
        log.warning("left out %d detections of classes that the data set does not have", np.sum(~known))
    rows = zip(
        annotations.image_ids[detections.images[known]].tolist(),
        categories[known].tolist(),
        xywh(detections.boxes[known]).tolist(),
        detections.scores[known].tolist(),
        strict=True,
    )
    keys = ("image_id", "category_id", "bbox", "score")
    results = [dict(zip(keys, row, strict=True)) for row in rows]
    if detections.masks is not None:
        sizes = annotations.sizes[detections.images[known]].tolist()
        for result, size, rle in zip(results, sizes, detections.masks[known], strict=True):
            result["segmentation"] = {"size": size, "counts": rle.decode()}
    return results


def evaluate(
    truth: GroundTruth,
    detections: Detections,
    classes: int,
    areas: Floats,
    overlaps: Overlaps,
    counts: Sequence[int] = COUNTS,
    never_false: NDArray[np.bool_] | None = None,
) -> tuple[Floats, Floats]:
    """Average precision (K, 4 area ranges, 10 thresholds) and recall (K, len(counts), 4, 10), NaN without an object.

    ``areas`` (M,) are those of the detections. ``counts`` are the detections of a class in an image that count for each
    recall; the last one is that of the precision. Detections marked in ``never_false`` (M,) are true or do not count.
    """
    rows, ranks, tp, fp, _, counted = match_detections(truth, detections, areas, overlaps, counts[-1])
    if never_false is not None:
        fp = np.where(never_false[rows], np.uint64(0), fp)
    objects = np.stack([np.bincount(truth.labels[column], minlength=classes) for column in counted.T], axis=1)
    precision, recall = np.zeros((classes, COMBINATIONS)), np.zeros((classes, len(counts), COMBINATIONS))
    limits = np.searchsorted(detections.labels[rows], np.arange(classes + 1))
    for label in range(classes):
        of_class = slice(limits[label], limits[label + 1])
        precision[label], recall[label] = _curve(tp[of_class], fp[of_class], ranks[of_class], objects[label], counts)
    shape = (len(AREAS), len(THRESHOLDS))
    return precision.reshape(classes, *shape), recall.reshape(classes, len(counts), *shape)


class Matches(NamedTuple):
    """R detections by class and descending score, matched with N objects."""

    rows: Rows  # (R,) rows of the detections
    ranks: Rows  # (R,) number of better ones of the class in the image
    tp: Bits  # (R,)
    fp: Bits  # (R,)
    objects: Rows  # (R,) the object that each is matched with at IoU .5, -1 without
    counted: NDArray[np.bool_]  # (N, 4) area ranges in which each object counts


def match_detections(
    truth: GroundTruth, detections: Detections, areas: Floats, overlaps: Overlaps, most: int = COUNTS[-1]
) -> Matches:
    """Match the best ``most`` detections of a class in an image as COCO does, see ``detection_geometry``."""
    images, order = len(truth.sizes), image_order(truth)
    places, truth_places = order[detections.images], order[truth.images]
    groups, truth_groups = detections.labels * images + places, truth.labels * images + truth_places
    rows = np.lexsort((places, -detections.scores, detections.labels))
    ranks = rank(groups[rows])
    rows, ranks = rows[ranks < most], ranks[ranks < most]

    counted = inside(truth.areas) & ~(truth.crowd | truth.difficult)[:, None]
    tp, unmatched, objects = match(rows, groups[rows], truth_groups, bits(counted), truth.crowd, overlaps)
    fp = unmatched & bits(inside(areas[rows]))  # an unmatched detection outside the area range does not count
    return Matches(rows, ranks, tp, fp, objects, counted)


def image_order(truth: GroundTruth) -> Rows:
    """The place of each image (I,) in the order of the images' ids, in which pycocotools counts equal scores."""
    if truth.image_ids is None:
        return np.arange(len(truth.sizes))
    return np.unique(truth.image_ids, return_inverse=True)[1]


def _curve(tp: Bits, fp: Bits, ranks: Rows, objects: Rows, counts: Sequence[int]) -> tuple[Floats, Floats]:
    """Average precision (40,) and recall (len(counts), 40) of the detections of one class, by descending score.

    The precision is the highest at each of the 101 recalls or above, 0 at those that are not reached; ``objects`` (4,)
    is their number in each area range.
    """
    rows = np.flatnonzero(tp)
    hits, totals = unpack(tp[rows]), np.cumsum(unpack(tp | fp), axis=1, dtype=np.int32)[:, rows]
    precision = np.cumsum(hits, axis=1) / np.maximum(totals, 1)
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # The number of hits that reaches each recall is a question of rounding, and pycocotools divides.
    needed = np.stack([np.searchsorted(np.arange(1, many + 1) / many, RECALLS) for many in objects])
    needed = np.repeat(needed, len(THRESHOLDS), axis=0)
    reached = hits.sum(axis=1, dtype=np.int64)[:, None]
    place = np.where(needed < reached, np.cumsum(reached)[:, None] - reached + needed, -1)
    average = np.append(highest[hits > 0], 0.0)[place].mean(axis=1)
    detected = np.stack([hits[:, ranks[rows] < limit].sum(axis=1) for limit in counts])
    many = np.repeat(objects, len(THRESHOLDS))
    return np.where(many > 0, average, np.nan), np.where(many > 0, detected / np.maximum(many, 1), np.nan)


def detection_geometry(
    truth: GroundTruth, detections: Detections, of: Literal["boxes", "masks"]
) -> tuple[Floats, Overlaps]:
    """Areas of the detections, and their overlaps with the objects, of boxes or of masks."""
    return (_boxes if of == "boxes" else _masks)(truth, detections)


def _boxes(truth: GroundTruth, detections: Detections) -> tuple[Floats, Overlaps]:
    """Areas of the detections, and overlaps as pycocotools computes them: not even the rounding differs."""
    a, b = xywh(detections.boxes).T.copy(), xywh(truth.boxes).T.copy()

    def overlaps(index: Rows, objects: Rows) -> Floats:
        (x1, y1, w1, h1), (x2, y2, w2, h2) = a[:, index], b[:, objects]
        width = np.minimum(x1 + w1, x2 + w2) - np.maximum(x1, x2)
        height = np.minimum(y1 + h1, y2 + h2) - np.maximum(y1, y2)
        both, area = width.clip(0) * height.clip(0), w1 * h1
        union = np.where(truth.crowd[objects], area, area + w2 * h2 - both)
        return np.asarray(both / np.maximum(union, np.finfo(np.float64).tiny))

    return a[2] * a[3], overlaps


def _masks(truth: GroundTruth, detections: Detections) -> tuple[Floats, Overlaps]:
    """Areas of the detections, and overlaps, of an image and a class at a time, as COCO's code computes them."""
    assert detections.masks is not None
    assert truth.masks is not None
    sizes, classes = truth.sizes.tolist(), truth.labels.max(initial=0) + 1
    images = detections.images.tolist()
    detected = [{"size": sizes[i], "counts": rle} for i, rle in zip(images, detections.masks, strict=True)]
    annotated = [{"size": sizes[i], "counts": rle} for i, rle in zip(truth.images, truth.masks, strict=True)]

    def overlaps(index: Rows, objects: Rows) -> Floats:
        iou = np.zeros(len(index))
        groups = detections.images[index] * classes + truth.labels[objects]
        order = np.argsort(groups, kind="stable")
        for pairs in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
            a, row = np.unique(index[pairs], return_inverse=True)
            b, column = np.unique(objects[pairs], return_inverse=True)
            if len(pairs):
                table = coco_masks.iou([detected[i] for i in a], [annotated[i] for i in b], truth.crowd[b].tolist())
                iou[pairs] = table[row, column]
        return iou

    return np.asarray(coco_masks.area(detected), dtype=np.float64), overlaps


def xywh(boxes: Floats) -> Floats:
    """Corners (N, 4) as the left and top edge, width and height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
