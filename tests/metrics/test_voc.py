import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.metrics import Detections, VocAP
from tests.metrics import generated


def development_kit(truth: DetectionAnnotations, found: Detections, label: int, year: int) -> float:
    """The kit's rules for one class, one detection after the other, with its pixels that count both ends."""
    objects = {}
    for image in range(len(truth)):
        rows = [row for row in range(*truth.objects(image).indices(len(truth.labels))) if truth.labels[row] == label]
        objects[image] = [
            {
                "box": truth.boxes[row] + (1, 1, 0, 0),  # the first pixel is 1, the last one belongs to the box
                "ignored": bool(truth.difficult[row] or truth.crowd[row]),
                "found": False,
            }
            for row in rows
        ]
    count = sum(not item["ignored"] for items in objects.values() for item in items)
    rows = sorted(np.flatnonzero(found.labels == label), key=lambda row: -found.scores[row])
    right, wrong, curve = 0, 0, []
    for row in rows:
        a = found.boxes[row] + (1, 1, 0, 0)
        best, chosen = -math.inf, None
        for item in objects[int(found.images[row])]:
            b = item["box"]
            width = min(a[2], b[2]) - max(a[0], b[0]) + 1
            height = min(a[3], b[3]) - max(a[1], b[1]) + 1
            if width > 0 and height > 0:
                area = (a[2] - a[0] + 1) * (a[3] - a[1] + 1) + (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
                overlap = width * height / (area - width * height)
                if overlap > best:
                    best, chosen = overlap, item
        if best >= 0.5:
            if not chosen["ignored"]:
                if chosen["found"]:
                    wrong += 1
                else:
                    right += 1
                    chosen["found"] = True
        else:
            wrong += 1
        if right + wrong:
            curve.append((Fraction(right, count) if count else Fraction(0), right / (right + wrong)))
    if count == 0:
        return math.nan
    if year == 2007:
        points = [max((p for r, p in curve if r >= Fraction(k, 10)), default=0.0) for k in range(11)]
        return sum(points) / 11
    area, previous = 0.0, Fraction(0)
    for recall, _ in curve:
        if recall > previous:
            area += float(recall - previous) * max(p for r, p in curve if r >= recall)
            previous = recall
    return area


def voc_ap(truth: DetectionAnnotations, found: Detections, year: Literal[2007, 2010]) -> dict[str, float]:
    values = generated.compute(VocAP(year, truth.classes), truth, found)
    return {name.removeprefix(f"VOC{year - 2000:02d}_"): value for name, value in values.items()}


@pytest.mark.parametrize("year", [2007, 2010])
@pytest.mark.parametrize("seed", range(6))
def test_equals_the_development_kit(seed: int, year: int) -> None:
    truth = generated.annotations(seed, images=6 * seed + 6, names=seed % 2 == 0)
    found = generated.detections(truth, seed + 50, false=3)
    theirs = {f"AP/{name}": development_kit(truth, found, label, year) for label, name in enumerate(truth.classes)}
    theirs["AP"] = float(np.nanmean(list(theirs.values())))
    ours = voc_ap(truth, found, year)
    assert ours == pytest.approx(theirs, abs=1e-12, nan_ok=True)
    assert 0.05 < ours["AP"] < 0.95
    assert math.isnan(ours["AP/class4"])


def one_class(boxes: list[list[float]], difficult: list[bool] | None = None) -> DetectionAnnotations:
    """Objects of one class in one image."""
    count = len(boxes)
    return DetectionAnnotations(
        classes=("cat",),
        category_ids=(1,),
        root=Path("nowhere"),
        files=np.array(["1.jpg"]),
        image_ids=np.array(["1"]),
        sizes=np.array([[100, 100]], dtype=np.int32),
        offsets=np.array([0, count]),
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        labels=np.zeros(count, dtype=np.int64),
        areas=np.ones(count),
        crowd=np.zeros(count, dtype=bool),
        difficult=np.array(difficult or [False] * count, dtype=bool),
        ids=np.arange(count),
    )


def finds(boxes: list[list[float]], scores: list[float]) -> Detections:
    count = len(boxes)
    return Detections(np.zeros(count, np.int64), np.array(boxes, float), np.zeros(count, np.int64), np.array(scores))


FIRST, SECOND, NOTHING = [0, 0, 10, 10], [50, 50, 60, 60], [80, 0, 90, 10]


@pytest.mark.parametrize(
    ("boxes", "eleven_points", "whole_curve"),
    [
        ([FIRST, SECOND], 1, 1),
        ([FIRST, FIRST, SECOND], (6 + 5 * 2 / 3) / 11, 0.5 + 0.5 * 2 / 3),  # the second one of an object is wrong
        ([NOTHING, FIRST], 6 * 0.5 / 11, 0.25),
        ([NOTHING], 0, 0),
        ([[0, 0, 10, 5], SECOND], 1, 1),  # an IoU of exactly one half is enough
        ([[0, 0, 10, 4.99], SECOND], 6 * 0.5 / 11, 0.25),
    ],
)
def test_by_hand(boxes: list[list[float]], eleven_points: float, whole_curve: float) -> None:
    truth, found = one_class([FIRST, SECOND]), finds(boxes, [0.9, 0.8, 0.7][: len(boxes)])
    assert voc_ap(truth, found, 2007)["AP"] == pytest.approx(eleven_points)
    assert voc_ap(truth, found, 2010)["AP"] == pytest.approx(whole_curve)


def test_three_of_ten_reaches_recall_three_tenths() -> None:
    """3/10 < 3 * 0.1 in floating point: the eleven recalls must not be compared that way."""
    objects = [[100 * place, 0, 100 * place + 10, 10] for place in range(10)]
    assert voc_ap(one_class(objects), finds(objects[:3], [0.9, 0.8, 0.7]), 2007)["AP"] == pytest.approx(4 / 11)


def test_a_difficult_object_may_be_found_any_number_of_times() -> None:
    truth = one_class([FIRST, SECOND], [True, False])
    assert voc_ap(truth, finds([FIRST, FIRST, SECOND], [0.9, 0.8, 0.7]), 2010)["AP"] == 1
    assert math.isnan(voc_ap(replace(truth, difficult=np.array([True, True])), finds([FIRST], [1]), 2010)["AP"])


def test_nothing_found_and_nothing_to_find() -> None:
    truth = generated.annotations(3)
    figures = voc_ap(truth, generated.no_detections(), 2007)
    assert figures["AP"] == 0
    assert math.isnan(figures["AP/class4"])
    truth = generated.annotations(3, objects=0)
    assert math.isnan(voc_ap(truth, generated.detections(truth, 1), 2010)["AP"])
