"""Match detections with objects as the COCO benchmark does, without a loop over images.

All 10 IoU thresholds and 4 area ranges are decided at once: each pair of them is a bit of an integer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Bits = NDArray[np.uint64]  # bit 10 a + t is that of area range a and IoU threshold t

Overlaps = Callable[[Rows, Rows], Floats]
"""From rows of detections and rows of objects, as many, the IoU of each two; of a crowd the share of the detection."""

THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])  # all, small, medium, large
COMBINATIONS = len(AREAS) * len(THRESHOLDS)
BLOCK = 1 << 16  # pairs of a detection and an object whose IoU is computed at once: it bounds the memory

_FIRST = np.array([1 << len(THRESHOLDS) * area for area in range(len(AREAS))], np.uint64)
_RANGES = _FIRST * np.uint64((1 << len(THRESHOLDS)) - 1)
_MET = np.array([(1 << met) - 1 for met in range(len(THRESHOLDS) + 1)], np.uint64) * _FIRST.sum()


def match(
    detections: Rows, groups: Rows, truth_groups: Rows, counted: Bits, crowd: NDArray[np.bool_], overlaps: Overlaps
) -> tuple[Bits, Bits, Rows]:
    """Match each detection with the object of its group that it overlaps most, of those not matched before it.

    ``detections`` are rows, those of a group by descending score; a group is an image and a class. ``counted`` marks
    where an object counts. One that does goes before one that does not, whatever they overlap; a crowd may be matched
    any number of times. Returns where a detection is matched with an object that counts, where with none at all, and
    the object that it is matched with at the lowest threshold and of any area, or -1.
    """
    rows, objects, iou = near_pairs(detections, groups, truth_groups, overlaps)
    best_first = np.lexsort((-objects, -iou, rows))  # among equals the last object
    rows, objects = rows[best_first], objects[best_first]
    able = _MET[np.searchsorted(THRESHOLDS, iou[best_first], side="right")]
    # A detection tries all its pairs where the object counts, then all of them where it does not.
    able = np.concatenate([able & counted[objects], able & ~counted[objects]])
    rows, objects = np.tile(rows, 2), np.tile(objects, 2)
    order = np.argsort(rows, kind="stable")
    able, rows, objects = able[order], rows[order], objects[order]

    taken = np.zeros_like(counted)
    done, tp = np.zeros(len(detections), np.uint64), np.zeros(len(detections), np.uint64)
    matched = np.full(len(detections), -1)
    ranks = rank(groups[rows])
    for turn in np.split(np.argsort(ranks, kind="stable"), np.cumsum(np.bincount(ranks))[:-1]):  # one pair of a group
        row, item = rows[turn], objects[turn]
        won = able[turn] & ~taken[item] & ~done[row]
        first = (won & _FIRST[0]) > 0
        matched[row[first]] = item[first]
        done[row] |= won
        tp[row] |= won & counted[item]
        taken[item] |= np.where(crowd[item], 0, won)
    return tp, ~done, matched


def near_pairs(
    detections: Rows, groups: Rows, truth_groups: Rows, overlaps: Overlaps, lowest: float = THRESHOLDS[0]
) -> tuple[Rows, Rows, Floats]:
    """Place in ``detections``, object and IoU of all pairs of a group whose IoU is at least ``lowest``."""
    blocks = _near_pairs(detections, groups, truth_groups, overlaps, lowest)
    rows, objects, iou = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return rows, objects, iou


def _near_pairs(
    detections: Rows, groups: Rows, truth_groups: Rows, overlaps: Overlaps, lowest: float
) -> Iterator[tuple[Rows, Rows, Floats]]:
    """The pairs of ``near_pairs`` block by block."""
    truth = np.argsort(truth_groups, kind="stable")
    ordered = truth_groups[truth]
    begins, ends = np.searchsorted(ordered, groups, "left"), np.searchsorted(ordered, groups, "right")
    rows = np.flatnonzero(begins < ends)
    begins, counts = begins[rows], (ends - begins)[rows]
    limits = np.searchsorted(np.cumsum(counts), np.arange(BLOCK, counts.sum(), BLOCK))
    for block in np.split(np.arange(len(rows)), limits):
        row = np.repeat(rows[block], counts[block])
        shifts = begins[block] - np.cumsum(counts[block]) + counts[block]
        item = truth[np.arange(len(row)) + np.repeat(shifts, counts[block])]
        iou = overlaps(detections[row], item)
        near = iou >= lowest
        yield row[near], item[near], iou[near]


def rank(groups: Rows) -> Rows:
    """Count the members of the same group before each."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    firsts = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(groups)) - np.repeat(firsts, np.diff(firsts, append=len(groups)))
    return ranks


def inside(areas: Floats) -> NDArray[np.bool_]:
    """Mark the area ranges (N, 4) in which each area lies."""
    return (areas[:, None] >= AREAS[:, 0]) & (areas[:, None] <= AREAS[:, 1])


def bits(ranges: NDArray[np.bool_]) -> Bits:
    """The bits of the area ranges (N, 4) that are true, at every threshold."""
    return ranges @ _RANGES


def unpack(flags: Bits) -> NDArray[np.uint8]:
    """Each bit as a row of zeros and ones, (40, N)."""
    octets = flags.astype("<u8")[:, None].view(np.uint8)
    return np.ascontiguousarray(np.unpackbits(octets, axis=1, count=COMBINATIONS, bitorder="little").T)
