"""Planted label errors, against the detections of an imagined good detector."""

from __future__ import annotations

import numpy as np

from detseg.metrics import Detections
from detseg.metrics.detections import NO_OBJECTS, GroundTruth
from detseg.metrics.label_errors import suspected_label_errors
from tests.metrics.matched import matched

IMAGES, PER_IMAGE = 60, 6


def labelled(seed: int) -> GroundTruth:
    """Objects of 3 classes in the cells of a grid."""
    random = np.random.default_rng(seed)
    total = IMAGES * PER_IMAGE
    cell = np.tile(np.arange(PER_IMAGE), IMAGES)
    corners = np.stack([cell % 3, cell // 3], axis=1) * 100.0 + random.uniform(0, 20, (total, 2))
    boxes = np.concatenate([corners, corners + random.uniform(40, 75, (total, 2))], axis=1)
    no = np.zeros(total, bool)
    return GroundTruth(
        np.repeat(np.arange(IMAGES), PER_IMAGE),
        boxes,
        random.integers(0, 3, total),
        (boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        no,
        no,
        None,
        np.tile(np.array([[200, 300]]), (IMAGES, 1)),
    )


def detected(truth: GroundTruth, seed: int) -> Detections:
    """97 % of the objects, moved a little, a few of them as another class with a low score."""
    random = np.random.default_rng(seed)
    kept = np.flatnonzero(random.random(len(truth.labels)) < 0.97)
    confused = random.random(len(kept)) < 0.03
    scores = np.where(confused, random.uniform(0.1, 0.5, len(kept)), random.uniform(0.5, 1, len(kept)))
    labels = np.where(confused, (truth.labels[kept] + 1) % 3, truth.labels[kept])
    boxes = truth.boxes[kept] + random.normal(0, 1.5, (len(kept), 4))
    return Detections(truth.images[kept], boxes, labels, scores)


def test_planted_errors_lead_the_list() -> None:
    truth = labelled(0)
    detections = detected(truth, 1)
    random = np.random.default_rng(2)
    swapped, shifted, dropped = np.split(random.permutation(len(truth.labels))[:15], 3)
    labels, boxes = truth.labels.copy(), truth.boxes.copy()
    labels[swapped] = (labels[swapped] + 1) % 3
    boxes[shifted] += 22
    kept = np.setdiff1d(np.arange(len(labels)), dropped)
    truth = truth._replace(labels=labels, boxes=boxes)
    columns = {
        name: getattr(truth, name)[kept] for name in ("images", "boxes", "labels", "areas", "crowd", "difficult")
    }
    planted = truth._replace(**columns)
    errors = suspected_label_errors(planted, detections, matched(planted, detections)[0])
    first = errors[:15]
    right = sum(
        (one.kind == "swapped" and kept[one.object] in swapped)
        or (one.kind == "localization error" and kept[one.object] in shifted)
        or (
            one.kind == "missing"
            and any(
                truth.images[row] == one.image and np.abs(truth.boxes[row] - detections.boxes[one.detection]).max() < 10
                for row in dropped
            )
        )
        for one in first
    )
    assert right >= 13
    assert {one.kind for one in first} >= {"swapped", "localization error", "missing"}
    assert [one.score for one in errors] == sorted((one.score for one in errors), reverse=True)
    assert all(0 < one.score <= 1 for one in errors)


def test_a_spurious_object_of_a_class_that_is_otherwise_detected() -> None:
    truth = labelled(3)
    detections = detected(truth, 4)
    everything = Detections(truth.images, truth.boxes, truth.labels, np.full(len(truth.labels), 0.9))
    alone = truth.boxes.copy()
    alone[7] += 1000
    truth = truth._replace(boxes=alone)
    errors = suspected_label_errors(truth, everything, matched(truth, everything)[0])
    assert ("spurious", 7) in {(one.kind, one.object) for one in errors[:2]}  # beside the detection that is missing one
    unlabelled = NO_OBJECTS._replace(sizes=truth.sizes)
    assert len(suspected_label_errors(unlabelled, detections, matched(unlabelled, detections)[0])) > 0
    none = Detections(*(column[:0] for column in detections[:4]))
    assert suspected_label_errors(truth, none, matched(truth, none)[0]) == []


def test_a_box_beside_a_false_positive_is_shifted_and_one_beside_a_detected_object_is_spurious() -> None:
    images = np.arange(30)
    boxes = np.tile([50.0, 50, 90, 90], (30, 1))
    aside = np.array([80.0, 80, 120, 120])  # IoU .03
    detections = Detections(images, boxes, np.zeros(30, np.int64), np.full(30, 0.9))
    labelled_boxes = np.concatenate([[aside], boxes[1:2], [aside], boxes[2:]])
    no = np.zeros(31, bool)
    truth = GroundTruth(
        np.insert(images, 2, 1), labelled_boxes, np.zeros(31, np.int64), np.full(31, 1600.0), no, no, None,
        np.tile([[200, 200]], (30, 1)),
    )  # fmt: skip
    errors = suspected_label_errors(truth, detections, matched(truth, detections)[0])
    first = {(one.kind, one.object, one.detection) for one in errors[:2]}
    assert first == {("localization error", 0, 0), ("spurious", 2, -1)}
    assert "missing" not in {one.kind for one in errors}
