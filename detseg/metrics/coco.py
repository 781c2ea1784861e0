"""Average precision and recall as the COCO benchmark defines them, from flat arrays and without a loop over images.

A bit stands for each pair of an IoU threshold and an area range, so that one operation on whole numbers decides all 40.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations
from detseg.metrics.detections import Detections

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Bits = NDArray[np.uint64]  # bit 10 a + t is of the area range a and the IoU threshold t
Overlaps = Callable[[Rows, Rows], Floats]
"""The IoU of each of these detections with the object in the same place; with a crowd, the share of the detection."""

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])  # all, small, medium, large
COUNTS = (1, 10, 100)  # detections of one class in one image
BLOCK = 1 << 16  # pairs of a detection and an object that are compared at once: what bounds the memory

AREA_BITS = np.array([(2 ** len(THRESHOLDS) - 1) << len(THRESHOLDS) * area for area in range(len(AREAS))], np.uint64)
THRESHOLD_BITS = np.array([(1 << met) - 1 for met in range(len(THRESHOLDS) + 1)], np.uint64) * (
    AREA_BITS.sum() // AREA_BITS[0]
)
"""The bits that an IoU sets which meets so many of the thresholds."""
COLUMNS = len(AREAS) * len(THRESHOLDS)


def coco_ap(annotations: Annotations, detections: Detections) -> dict[str, float]:
    """The 12 numbers of the COCO benchmark, and ``AP/<class>`` for every class, all between 0 and 1.

    ``AP`` is the mean over the IoU thresholds .50:.05:.95, ``AP_small`` and so on that of the objects whose ``areas``
    lie in the range, ``AR_10`` the recall with 10 detections of a class in an image; everything else counts 100.

    Crowds are ignored as COCO does. So are difficult objects, which COCO does not have: finding one is neither right
    nor wrong, as in VOC. A number that no object defines is nan (pycocotools says -1), and means leave it out.
    """
    areas = (detections.boxes[:, 2:] - detections.boxes[:, :2]).prod(axis=1)
    precision, recall = _evaluate(annotations, detections, areas, _box_overlaps(annotations, detections))
    result = {"AP": precision[:, 0], "AP50": precision[:, 0, 0], "AP75": precision[:, 0, 5]}
    sizes = {"small": 1, "medium": 2, "large": 3}
    result |= {f"AP_{size}": precision[:, area] for size, area in sizes.items()}
    result |= {f"AR_{count}": recall[:, row, 0] for row, count in enumerate(COUNTS)}
    result |= {f"AR_{size}": recall[:, -1, area] for size, area in sizes.items()}
    result |= {f"AP/{name}": precision[label, 0] for label, name in enumerate(annotations.classes)}
    return {name: _mean(values) for name, values in result.items()}


def coco_results(annotations: Annotations, detections: Detections) -> list[dict[str, Any]]:
    """Detections in the COCO result format: the data set's own image and category ids, boxes as x, y, width, height.

    Detections of classes that the data set does not have cannot be said in its ids; they are left out, and counted in
    the log.
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
    return [dict(zip(keys, row, strict=True)) for row in rows]


def _evaluate(
    annotations: Annotations, detections: Detections, areas: Floats, overlaps: Overlaps
) -> tuple[Floats, Floats]:
    """Average precision (K, 4 area ranges, 10 thresholds) and recall (K, 3 counts, 4, 10), nan without an object.

    ``areas`` (M,) are those of the detections.
    """
    classes, images = len(annotations.classes), len(annotations)
    if ((detections.images < 0) | (detections.images >= images)).any():
        raise ValueError(f"there are detections of other images than the {images} of the annotations")
    # pycocotools takes images in the order of their ids, and detections of equal score in the order of their images.
    places = np.unique(annotations.image_ids, return_inverse=True)[1]
    truth_groups = annotations.labels * images + np.repeat(places, np.diff(annotations.offsets))
    groups = detections.labels * images + places[detections.images]
    found = np.lexsort((places[detections.images], -detections.scores, detections.labels))
    ranks = _ranks(groups[found])
    known = (ranks < COUNTS[-1]) & (detections.labels[found] >= 0) & (detections.labels[found] < classes)
    found, ranks = found[known], ranks[known]

    counts = _inside(annotations.areas) & ~(annotations.crowd | annotations.difficult)[:, None]
    right, free = _match(found, groups[found], truth_groups, _bits(counts), annotations.crowd, overlaps)
    wrong = free & _bits(_inside(areas[found]))  # outside the range, finding nothing counts neither way
    objects = np.stack([np.bincount(annotations.labels, column, classes) for column in counts.T], axis=1)
    objects = np.repeat(objects, len(THRESHOLDS), axis=1)

    precision, recall = np.zeros((classes, COLUMNS)), np.zeros((classes, len(COUNTS), COLUMNS))
    limits = np.searchsorted(detections.labels[found], np.arange(classes + 1))
    for label in range(classes):
        rows = slice(limits[label], limits[label + 1])
        hits = np.flatnonzero(right[rows])
        positive = _columns(right[rows][hits])
        total = np.cumsum(_columns(right[rows] | wrong[rows]), axis=0, dtype=np.int32)[hits]
        precision[label] = _average_precision(positive, total, objects[label])
        recall[label] = [positive[ranks[rows][hits] < count].sum(axis=0) for count in COUNTS]
    with np.errstate(invalid="ignore"):
        recall /= objects[:, None]
    shape = (len(AREAS), len(THRESHOLDS))
    return precision.reshape(classes, *shape), recall.reshape(classes, len(COUNTS), *shape)


def _match(
    found: Rows, groups: Rows, truth_groups: Rows, counted: Bits, crowd: NDArray[np.bool_], overlaps: Overlaps
) -> tuple[Bits, Bits]:
    """Give each detection, in their order, the object of its group it overlaps most among those that are left.

    An object that counts goes before one that does not, whatever the overlaps; a crowd is always left. Returns where a
    detection finds an object that counts, and where it finds none at all.
    """
    pairs = _pairs(found, groups, truth_groups, overlaps)
    rows, objects, iou = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    best_first = np.lexsort((-objects, -iou, rows))  # among equals the last object
    rows, objects, iou = rows[best_first], objects[best_first], iou[best_first]
    able = THRESHOLD_BITS[np.searchsorted(THRESHOLDS, iou, side="right")]
    # Every pair is tried where the object counts, and once all pairs of the detection were, where it does not.
    able = np.concatenate([able & counted[objects], able & ~counted[objects]])
    order = np.argsort(np.concatenate([2 * rows, 2 * rows + 1]), kind="stable")
    able, rows, objects = able[order], np.tile(rows, 2)[order], np.tile(objects, 2)[order]

    taken, done, right = np.zeros_like(counted), np.zeros(len(found), np.uint64), np.zeros(len(found), np.uint64)
    for turn in _turns(groups[rows]):  # of each group one pair at most
        row, item = rows[turn], objects[turn]
        won = able[turn] & ~taken[item] & ~done[row]
        done[row] |= won
        right[row] |= won & counted[item]
        taken[item] |= np.where(crowd[item], 0, won)
    return right, ~done


def _pairs(found: Rows, groups: Rows, truth_groups: Rows, overlaps: Overlaps) -> Iterator[tuple[Rows, Rows, Floats]]:
    """Place in ``found``, object and IoU of the pairs within a group that meet the lowest threshold, block by block."""
    truth = np.argsort(truth_groups, kind="stable")
    ordered = truth_groups[truth]
    begins, ends = np.searchsorted(ordered, groups, "left"), np.searchsorted(ordered, groups, "right")
    rows = np.flatnonzero(begins < ends)
    begins, counts = begins[rows], (ends - begins)[rows]
    sums = np.cumsum(counts)
    limits = np.searchsorted(sums, np.arange(BLOCK, counts.sum(), BLOCK))
    for block in np.split(np.arange(len(rows)), limits):
        shifts = begins[block] - np.cumsum(counts[block]) + counts[block]
        row = np.repeat(rows[block], counts[block])
        item = truth[np.arange(len(row)) + np.repeat(shifts, counts[block])]
        iou = overlaps(found[row], item)
        near = iou >= THRESHOLDS[0]
        yield row[near], item[near], iou[near]


def _average_precision(positive: NDArray[np.uint8], total: NDArray[np.int32], objects: Floats) -> Floats:
    """Mean of the highest precision at each of the 101 recalls or above, in each column, of one class.

    ``positive`` (n, columns) says which detections are right, by descending score; ``total`` how many count so far.
    """
    precision = np.cumsum(positive, axis=0) / np.maximum(total, 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    columns, rows = np.nonzero(positive.T)
    hits = positive.sum(axis=0, dtype=np.int64)[:, None]
    # How many hits a recall takes, by the rounding of pycocotools, which divides.
    many = np.maximum(objects, 1)[:, None]
    needed = np.ceil(RECALLS * many)
    needed -= (needed - 1) / many >= RECALLS
    needed += needed / many < RECALLS
    needed = np.maximum(needed, 1).astype(np.int64)
    place = np.where(needed <= hits, np.cumsum(hits)[:, None] - hits + needed - 1, -1)
    values = np.append(highest[rows, columns], 0.0)[place].mean(axis=1)
    return np.where(objects > 0, values, np.nan)


def _box_overlaps(annotations: Annotations, detections: Detections) -> Overlaps:
    """As pycocotools computes them, from corners and sides: not even the rounding differs."""
    a, b = _xywh(detections.boxes).T.copy(), _xywh(annotations.boxes).T.copy()

    def overlaps(rows: Rows, objects: Rows) -> Floats:
        (x1, y1, w1, h1), (x2, y2, w2, h2) = a[:, rows], b[:, objects]
        width = np.minimum(x1 + w1, x2 + w2) - np.maximum(x1, x2)
        height = np.minimum(y1 + h1, y2 + h2) - np.maximum(y1, y2)
        both, area = width.clip(0) * height.clip(0), w1 * h1
        union = np.where(annotations.crowd[objects], area, area + w2 * h2 - both)
        return np.asarray(both / np.maximum(union, np.finfo(np.float64).tiny))

    return overlaps


def _ranks(groups: Rows) -> Rows:
    """How many of the same group come before each."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(groups)) - np.searchsorted(ordered, ordered)
    return ranks


def _turns(groups: Rows) -> list[Rows]:
    """The first of every group, the second of every group, and so on."""
    ranks = _ranks(groups)
    return np.split(np.argsort(ranks, kind="stable"), np.cumsum(np.bincount(ranks))[:-1])


def _inside(areas: Floats) -> NDArray[np.bool_]:
    """In which of the area ranges an area lies, (N, 4)."""
    return (areas[:, None] >= AREAS[:, 0]) & (areas[:, None] <= AREAS[:, 1])


def _bits(inside: NDArray[np.bool_]) -> Bits:
    """The bits of the area ranges, for all thresholds."""
    return inside @ AREA_BITS


def _columns(bits: Bits) -> NDArray[np.uint8]:
    """Every bit as a column of zeros and ones."""
    return np.unpackbits(bits.astype("<u8")[:, None].view(np.uint8), axis=1, count=COLUMNS, bitorder="little")


def _xywh(boxes: Floats) -> Floats:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _mean(values: Floats) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
