"""Thresholds, counts and confusion, against loops over detections and objects."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from detseg.metrics.operating_point import confused_with, confusion, precision_recall
from tests.metrics.matched import iou, make


def test_curve_equals_scikit_learn_and_thresholds_a_search() -> None:
    random = np.random.default_rng(0)
    scores, tp = random.integers(0, 40, 200) / 40, random.random(200) < 0.4
    curve = precision_recall(scores, tp, int(tp.sum()))
    precision, recall, thresholds = precision_recall_curve(tp, scores)
    assert curve.thresholds == pytest.approx(thresholds[::-1])
    assert curve.precision == pytest.approx(precision[:-1][::-1])
    assert curve.recall == pytest.approx(recall[:-1][::-1])
    counts = {t: (tp[scores >= t].sum(), (~tp)[scores >= t].sum(), tp[scores < t].sum()) for t in thresholds}
    assert curve.best_f1() == max(counts, key=lambda t: 2 * counts[t][0] / (2 * counts[t][0] + sum(counts[t][1:])))
    assert curve.cheapest(3) == min(sorted(counts)[::-1], key=lambda t: 3 * counts[t][2] + counts[t][1])


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.8])
def test_confusion_equals_a_loop(threshold: float) -> None:
    made = make(5)
    truth, found, matches = made.truth, made.detections, made.matches
    confused = confused_with(truth, found, matches, made.pairs)
    counts = confusion(truth, found, matches, confused, 5, threshold)
    columns = zip(matches.rows, matches.objects, matches.tp, matches.fp, strict=True)
    rows = {row: (item, bool(tp & 1), bool(fp & 1)) for row, item, tp, fp in columns}
    kept = [row for row in rows if found.scores[row] >= threshold]
    right = {rows[row][0] for row in kept if rows[row][1]}
    cells: Counter[tuple[int, int]] = Counter()
    taken = {}
    for row in sorted((row for row in kept if rows[row][2]), key=lambda row: -found.scores[row]):
        overlaps = {
            o: iou(found.boxes[row], truth.boxes[o])
            for o in np.flatnonzero((truth.images == found.images[row]) & ~truth.crowd).tolist()
            if truth.labels[o] != found.labels[row]
        }
        best = max(overlaps, key=lambda o: (overlaps[o], -o), default=None)
        wrong = best is not None and overlaps[best] >= 0.5 and best not in right
        if wrong:
            taken.setdefault(best, row)
        if not wrong:
            cells[5, int(found.labels[row])] += 1
    for o in np.flatnonzero(~truth.crowd).tolist():
        if o not in right:
            cells[int(truth.labels[o]), int(found.labels[taken[o]]) if o in taken else 5] += 1
    assert {(a, b): n for a, b, n in counts.cells.tolist()} == dict(cells)
    assert counts.tp.sum() == len(right)
    assert counts.fn.sum() == (~truth.crowd).sum() - len(right)
    assert counts.fp.sum() == sum(rows[row][2] for row in kept)
