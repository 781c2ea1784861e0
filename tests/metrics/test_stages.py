"""Losses by stage, against loops over objects."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from detseg.metrics import Detections
from detseg.metrics.detections import concatenate, read_target
from detseg.metrics.stages import OUTCOMES, TOP, proposal_overlaps, proposal_recalls, stage_outcomes
from tests.metrics.matched import iou, make, matched


def test_overlaps_and_recalls_equal_torchvision() -> None:
    random = np.random.default_rng(0)
    objects, proposals = (
        np.concatenate([corners, corners + random.uniform(5, 90, corners.shape)], axis=1)
        for corners in (random.uniform(0, 200, (9, 2)), random.uniform(0, 200, (400, 2)))
    )
    table = box_iou(torch.from_numpy(objects), torch.from_numpy(proposals)).numpy()
    overlaps = proposal_overlaps(objects, proposals)
    for column, count in enumerate(TOP):
        assert overlaps[:, column] == pytest.approx(table[:, :count].max(axis=1))
    areas = np.array([100.0] * 4 + [5000.0] * 5)
    recalls = proposal_recalls(overlaps, areas)
    assert recalls["all"][1][2] == pytest.approx((table[:, :30].max(axis=1) >= 0.6).mean(), abs=1e-4)
    assert recalls["small"][4][0] == pytest.approx((table[:4].max(axis=1) >= 0.5).mean(), abs=1e-4)
    assert recalls["large"] == []
    assert proposal_overlaps(objects, proposals[:0]).tolist() == np.zeros((9, 5)).tolist()


def test_outcomes_equal_a_loop() -> None:
    made = make(2)
    truth, found = made.truth, made.detections
    proposed = np.random.default_rng(0).random(len(truth.labels))
    outcomes = stage_outcomes(truth, found, made.matches, made.pairs, proposed)
    wrong = set(made.matches.rows[made.matches.fp & 1 > 0].tolist())
    right = set(made.matches.objects[made.matches.tp & 1 > 0].tolist())
    for row, outcome in enumerate(outcomes.tolist()):
        if truth.crowd[row]:
            assert outcome == -1
            continue
        near = [
            (iou(found.boxes[one], truth.boxes[row]), found.labels[one] == truth.labels[row])
            for one in np.flatnonzero(found.images == truth.images[row])
            if one in wrong
        ]
        if row in right:
            expected = "detected"
        elif any(same and overlap >= 0.1 for overlap, same in near):
            expected = "localization error"
        elif any(overlap >= 0.5 for overlap, _ in near):
            expected = "classification error"
        else:
            expected = "not proposed" if proposed[row] < 0.5 else "missed"
        assert OUTCOMES[outcome] == expected
    assert len(set(outcomes.tolist())) >= 5


def test_the_detection_of_a_neighbour_is_no_localization_error() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [5.0, 0, 15, 10]])
    target = {"boxes": boxes, "labels": np.zeros(2, np.int64)}
    truth = concatenate([read_target(target, False)])
    found = Detections(np.zeros(1, np.int64), boxes[:1], np.zeros(1, np.int64), np.ones(1))
    outcomes = stage_outcomes(truth, found, *matched(truth, found))
    assert [OUTCOMES[outcome] for outcome in outcomes] == ["detected", "missed"]
