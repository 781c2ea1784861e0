from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from detseg.metrics import proposal_recall
from tests.data import made


def test_it_equals_a_loop_over_the_objects() -> None:
    annotations = made.annotations([5, 0, 9, 3])
    generator = np.random.default_rng(1)
    proposals = []
    for row in range(4):
        truth = annotations.boxes[annotations.objects(row)]
        near = truth + generator.normal(0, 0.4, truth.shape)
        proposals.append(near[: len(near) - 1].astype(np.float32))
    best = []
    for row in range(4):
        for number in range(*annotations.objects(row).indices(10**6)[:2]):
            if annotations.crowd[number] or annotations.difficult[number]:
                continue
            box = torch.from_numpy(annotations.boxes[number : number + 1])
            overlaps = box_iou(box, torch.from_numpy(proposals[row]).double())
            best.append(max(overlaps[0].tolist(), default=0.0))
    found = proposal_recall(annotations, proposals)
    assert 0 < found["recall70"] < found["recall50"] < 1
    assert found["recall50"] == pytest.approx(sum(x >= 0.5 for x in best) / len(best))
    assert found["recall70"] == pytest.approx(sum(x >= 0.7 for x in best) / len(best))
    thresholds = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    assert found["AR"] == pytest.approx(sum(sum(x >= t for x in best) / len(best) for t in thresholds) / 10)


def test_the_ends() -> None:
    annotations = made.annotations([6])
    exact = proposal_recall(annotations, [annotations.boxes.astype(np.float32)])
    assert exact["recall50"] == exact["recall70"] == exact["AR"] == 1
    none = proposal_recall(annotations, [np.zeros((0, 4), np.float32)])
    assert none["recall50"] == none["AR"] == 0
    assert np.isnan(proposal_recall(made.annotations([0]), [np.zeros((0, 4), np.float32)])["AR"])
