"""Average precision and recall as the COCO benchmark defines them."""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
from faster_coco_eval.core import mask as runs

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.metrics.detections import Detections
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

log = logging.getLogger(__name__)

RECALLS = np.linspace(0, 1, 101)
COUNTS = (1, 10, 100)  # detections of one class in one image


def coco_ap(
    annotations: DetectionAnnotations, detections: Detections, of: Literal["boxes", "masks"] = "boxes"
) -> dict[str, float]:
    """The 12 numbers of the COCO benchmark, and ``AP/<class>`` for every class, all between 0 and 1.

    ``AP`` is the mean over the IoU thresholds .50:.05:.95, ``AP_small`` and so on that of the objects whose ``areas``
    lie in the range, ``AR_10`` the recall with 10 detections of a class in an image; everything else counts 100.
    ``of`` masks, which both sides must have, it is their pixels that overlap.

    Crowds are ignored as COCO does. So are difficult objects, which COCO does not have: finding one is neither right
    nor wrong, as in VOC. A number that no object defines is nan (pycocotools says -1), and means leave it out.
    """
    areas, overlaps = (_boxes if of == "boxes" else _masks)(annotations, detections)
    precision, recall = _evaluate(annotations, detections, areas, overlaps)
    result = {"AP": precision[:, 0], "AP50": precision[:, 0, 0], "AP75": precision[:, 0, 5]}
    sizes = {"small": 1, "medium": 2, "large": 3}
    result |= {f"AP_{size}": precision[:, area] for size, area in sizes.items()}
    result |= {f"AR_{count}": recall[:, row, 0] for row, count in enumerate(COUNTS)}
    result |= {f"AR_{size}": recall[:, -1, area] for size, area in sizes.items()}
    result |= {f"AP/{name}": precision[label, 0] for label, name in enumerate(annotations.classes)}
    return {name: _mean(values) for name, values in result.items()}


def coco_results(annotations: DetectionAnnotations, detections: Detections) -> list[dict[str, Any]]:
    """Detections in the COCO result format: the data set's own image and category ids, boxes as x, y, width, height.

    Masks are run lengths. (Where a result has both, pycocotools takes its area from the box: take ``bbox`` out for its
    AP of small, medium and large masks.) Detections of classes that the data set does not have cannot be said in its
    ids; they are left out, and counted in the log.
    """
    categories = np.asarray(annotations.category_ids, dtype=np.int64)[detections.labels]
    known = categories >= 0
    if not known.all():
        log.warning("%d detections are of classes that the data set does not have: left out", np.sum(~known))
    rows = zip(
        annotations.image_ids[detections.images[known]].tolist(),
        categories[known].tolist(),
        _xywh(detections.boxes[known]).tolist(),
        detections.scores[known].tolist(),
        strict=True,
    )
    keys = ("image_id", "category_id", "bbox", "score")
    results = [dict(zip(keys, row, strict=True)) for row in rows]
    if detections.masks is not None:
        sizes = annotations.sizes[detections.images[known]].tolist()
        for result, size, runs in zip(results, sizes, detections.masks[known], strict=True):
            result["segmentation"] = {"size": size, "counts": runs.decode()}
    return results


def _evaluate(
    annotations: DetectionAnnotations, detections: Detections, areas: Floats, overlaps: Overlaps
) -> tuple[Floats, Floats]:
    """Average precision (K, 4 area ranges, 10 thresholds) and recall (K, 3 counts, 4, 10), nan without an object.

    ``areas`` (M,) are those of the detections.
    """
    classes, images = len(annotations.classes), len(annotations)
    places, truth_places = _places(annotations, detections)
    groups, truth_groups = detections.labels * images + places, annotations.labels * images + truth_places
    found = np.lexsort((places, -detections.scores, detections.labels))
    ranks = rank(groups[found])
    found, ranks = found[ranks < COUNTS[-1]], ranks[ranks < COUNTS[-1]]

    counted = inside(annotations.areas) & ~(annotations.crowd | annotations.difficult)[:, None]
    right, free = match(found, groups[found], truth_groups, bits(counted), annotations.crowd, overlaps)
    wrong = free & bits(inside(areas[found]))  # one outside the range that finds nothing counts neither way

    objects = np.stack([np.bincount(annotations.labels[column], minlength=classes) for column in counted.T], axis=1)
    precision, recall = np.zeros((classes, COMBINATIONS)), np.zeros((classes, len(COUNTS), COMBINATIONS))
    limits = np.searchsorted(detections.labels[found], np.arange(classes + 1))
    for label in range(classes):
        rows = slice(limits[label], limits[label + 1])
        precision[label], recall[label] = _figures(right[rows], wrong[rows], ranks[rows], objects[label])
    shape = (len(AREAS), len(THRESHOLDS))
    return precision.reshape(classes, *shape), recall.reshape(classes, len(COUNTS), *shape)


def _places(annotations: DetectionAnnotations, detections: Detections) -> tuple[Rows, Rows]:
    """The image of each detection and of each object, counted as pycocotools does: in the order of the images' ids."""
    images = len(annotations)
    if ((detections.images < 0) | (detections.images >= images)).any():
        raise ValueError(f"there are detections of other images than the {images} of the annotations")
    places = np.unique(annotations.image_ids, return_inverse=True)[1]
    return places[detections.images], np.repeat(places, np.diff(annotations.offsets))


def _figures(right: Bits, wrong: Bits, ranks: Rows, objects: Rows) -> tuple[Floats, Floats]:
    """Average precision (40,) and recall (3, 40) of the detections of one class, by descending score.

    The precision is the highest at each of the 101 recalls or above, 0 at those that are not reached; ``objects`` (4,)
    are how many there are to find in each area range.
    """
    rows = np.flatnonzero(right)
    hits, totals = unpack(right[rows]), np.cumsum(unpack(right | wrong), axis=1, dtype=np.int32)[:, rows]
    precision = np.cumsum(hits, axis=1) / np.maximum(totals, 1)
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # By which hit each recall is reached; that is a question of rounding, and pycocotools divides.
    needed = np.stack([np.searchsorted(np.arange(1, many + 1) / many, RECALLS) for many in objects])
    needed = np.repeat(needed, len(THRESHOLDS), axis=0)
    counts = hits.sum(axis=1, dtype=np.int64)[:, None]
    place = np.where(needed < counts, np.cumsum(counts)[:, None] - counts + needed, -1)
    average = np.append(highest[hits > 0], 0.0)[place].mean(axis=1)
    found = np.stack([hits[:, ranks[rows] < limit].sum(axis=1) for limit in COUNTS])
    many = np.repeat(objects, len(THRESHOLDS))
    return np.where(many > 0, average, np.nan), np.where(many > 0, found / np.maximum(many, 1), np.nan)


def _boxes(annotations: DetectionAnnotations, detections: Detections) -> tuple[Floats, Overlaps]:
    """Areas of the detections, and overlaps as pycocotools computes them: not even the rounding differs."""
    a, b = _xywh(detections.boxes).T.copy(), _xywh(annotations.boxes).T.copy()

    def overlaps(rows: Rows, objects: Rows) -> Floats:
        (x1, y1, w1, h1), (x2, y2, w2, h2) = a[:, rows], b[:, objects]
        width = np.minimum(x1 + w1, x2 + w2) - np.maximum(x1, x2)
        height = np.minimum(y1 + h1, y2 + h2) - np.maximum(y1, y2)
        both, area = width.clip(0) * height.clip(0), w1 * h1
        union = np.where(annotations.crowd[objects], area, area + w2 * h2 - both)
        return np.asarray(both / np.maximum(union, np.finfo(np.float64).tiny))

    return a[2] * a[3], overlaps


def _masks(annotations: DetectionAnnotations, detections: Detections) -> tuple[Floats, Overlaps]:
    """Areas of the detections, and overlaps, of an image and a class at a time, as COCO's code computes them."""
    assert detections.masks is not None
    assert annotations.masks is not None
    sizes = annotations.sizes.tolist()
    owners = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets)).tolist()
    found = [{"size": sizes[i], "counts": m} for i, m in zip(detections.images.tolist(), detections.masks, strict=True)]
    truth = [{"size": sizes[i], "counts": annotations.masks.runs(row, *sizes[i])} for row, i in enumerate(owners)]

    def overlaps(rows: Rows, objects: Rows) -> Floats:
        iou = np.zeros(len(rows))
        groups = detections.images[rows] * len(annotations.classes) + annotations.labels[objects]
        order = np.argsort(groups, kind="stable")
        for pairs in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
            a, row = np.unique(rows[pairs], return_inverse=True)
            b, column = np.unique(objects[pairs], return_inverse=True)
            if len(pairs):
                table = runs.iou([found[i] for i in a], [truth[i] for i in b], annotations.crowd[b].tolist())
                iou[pairs] = table[row, column]
        return iou

    return np.asarray(runs.area(found), dtype=np.float64), overlaps


def _xywh(boxes: Floats) -> Floats:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _mean(values: Floats) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
