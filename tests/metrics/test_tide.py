"""Errors and their costs, against the rules of the TIDE toolbox in loops."""

from __future__ import annotations

import numpy as np
import pytest

from detseg.metrics import CocoAP
from detseg.metrics.tide import ERRORS, tide
from tests.metrics import generated
from tests.metrics.matched import Matched, iou, make, matched


def reference(made: Matched) -> tuple[float, dict[str, float]]:
    """The figures of tidecv 1.0.1 (quantify.py, errors/main_errors.py, ap.py), transcribed, between 0 and 1."""
    points: dict[int, tuple[int, float, bool]] = {}  # detections that count
    errors: list[tuple[str, int, int]] = []  # type, detection, object
    truth, found = made.truth, made.detections
    used: dict[int, int] = {}
    best: dict[int, tuple[float, int]] = {}
    ignore = truth.crowd
    for image in range(len(truth.sizes)):
        objects = [int(o) for o in np.flatnonzero((truth.images == image) & ~ignore)]
        rows = sorted(np.flatnonzero(found.images == image).tolist(), key=lambda row: -found.scores[row])
        overlap = {(r, o): iou(found.boxes[r], truth.boxes[o]) for r in rows for o in objects}
        same = {(r, o): bool(found.labels[r] == truth.labels[o]) for r in rows for o in objects}
        right = set()
        for r in rows:
            free = [o for o in objects if same[r, o] and o not in used and overlap[r, o] >= 0.5]
            if free:
                used[max(free, key=lambda o: overlap[r, o])] = r
                right.add(r)
        for r in rows:
            inside = False
            for o in np.flatnonzero((truth.images == image) & ignore & (truth.labels == found.labels[r])):
                a, b = found.boxes[r], truth.boxes[o]
                low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
                inside |= bool((high - low).clip(0).prod() / (a[2:] - a[:2]).prod() >= 0.5)
            if r in right or not inside:
                points[r] = int(found.labels[r]), float(found.scores[r]), r in right
            if r in right:
                continue

            def most(kept: list[int], r: int = r, overlap: dict = overlap) -> tuple[float, int]:
                return max(((overlap[r, o], o) for o in kept), default=(0.0, -1))

            box, of_box = most([o for o in objects if same[r, o]])
            other, of_other = most([o for o in objects if not same[r, o]])
            if 0.1 <= box <= 0.5:
                errors.append(("localization", r, of_box))
            elif other >= 0.5:
                errors.append(("classification", r, of_other))
            elif most([o for o in objects if same[r, o] and o in used])[0] >= 0.5:
                errors.append(("duplicate", r, -1))
            elif most(objects)[0] <= 0.1:
                errors.append(("background", r, -1))
            else:
                errors.append(("both", r, -1))
            kind, _, target = errors[-1]
            if target >= 0 and target not in used and found.scores[r] > best.get(target, (-1, -1))[0]:
                best[target] = float(found.scores[r]), r
    counts = np.bincount(truth.labels[~ignore], minlength=4)
    missed = [int(o) for o in np.flatnonzero(~ignore) if o not in used and o not in best]

    def ap(points: dict[int, tuple[int, float, bool]], counts: np.ndarray) -> float:
        values = []
        for label in range(4):
            ordered = sorted((p for p in points.values() if p[0] == label), key=lambda p: -p[1])
            hits = np.cumsum([p[2] for p in ordered])
            precision = hits / (np.arange(len(hits)) + 1)
            values.append(0.0)
            for recall in np.linspace(0, 1, 101):
                reached = np.flatnonzero(hits / counts[label] >= recall)
                values[-1] += float(precision[reached[0] :].max()) / 101 if len(reached) else 0.0
        return float(np.mean(values))

    start, costs = ap(points, counts), {}
    for kind in ERRORS:
        fixed, remaining = dict(points), counts.copy()
        for of, r, target in errors:
            if of == kind:
                fixed.pop(r, None)
                if target >= 0 and target not in used and best[target][1] == r:
                    fixed[r] = int(truth.labels[target]), float(found.scores[r]), True
        if kind == "missed":
            remaining = counts - np.bincount(truth.labels[missed], minlength=4)
        costs[kind] = max(ap(fixed, remaining) - start, 0)
    costs["false positives"] = ap({r: p for r, p in points.items() if p[2]}, counts) - start
    lost = [o for o in np.flatnonzero(~ignore) if o not in used]
    costs["false negatives"] = ap(points, counts - np.bincount(truth.labels[lost], minlength=4)) - start
    return start, costs


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_rules_in_loops(seed: int) -> None:
    made = make(seed)
    errors = tide(made.truth, made.detections, made.matches, made.pairs, 5)
    ap50, costs = reference(made)
    assert errors.ap50 == pytest.approx(ap50, abs=1e-9)
    assert errors.costs == pytest.approx(costs, abs=1e-9)
    assert all(errors.costs[name] > 0 for name in ("localization", "background", "missed"))
    assert errors.ap50 == pytest.approx(generated.compute(CocoAP(), made.annotations, made.detections)["AP50"])


def test_everything_is_missed_without_detections() -> None:
    made = make(0)
    detections = generated.no_detections()
    errors = tide(made.truth, detections, *matched(made.truth, detections), 5)
    assert errors.ap50 == 0
    assert {name: errors.costs[name] for name in ERRORS} == {name: float(name == "missed") for name in ERRORS}
    assert errors.missed.sum() == made.matches.counted[:, 0].sum()
