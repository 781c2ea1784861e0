from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from detseg.ops.boxes import nms
from tests.ops.drawn import random_boxes


def candidates(images: int = 3, count: int = 40) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    valid = torch.rand(images, count) < 0.8
    valid[-1] = False
    return random_boxes(images, count), torch.rand(images, count), torch.randint(0, 3, (images, count)), valid


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("limit", [1, 5, 40, 60])
def test_agrees_with_torchvision_image_by_image(threshold, limit) -> None:
    boxes, scores, groups, valid = candidates()
    indices, kept = nms(boxes, scores, groups, valid, threshold, limit)
    assert indices.shape == kept.shape == (3, limit)
    for image in range(3):
        rows = valid[image].nonzero()[:, 0]
        survivors = batched_nms(boxes[image, rows], scores[image, rows], groups[image, rows], threshold)[:limit]
        count = len(survivors)
        assert indices[image, :count].tolist() == rows[survivors].tolist()
        assert kept[image].tolist() == [True] * count + [False] * (limit - count)
        assert (indices[image, count:] == 0).all()


def test_agrees_with_the_definition() -> None:
    """Keep, by falling score, every box that no kept box of its group overlaps by more than the threshold."""
    boxes, scores, groups, valid = candidates(images=2)
    expected: list[int] = []
    for row in scores[0].argsort(descending=True).tolist():
        rivals = [other for other in expected if groups[0, other] == groups[0, row]]
        if valid[0, row] and (not rivals or box_iou(boxes[0, row, None], boxes[0, rivals]).max() <= 0.3):
            expected.append(row)
    indices, kept = nms(boxes, scores, groups, valid, 0.3, 40)
    assert indices[0, kept[0]].tolist() == expected


def test_groups_do_not_compete() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10]] * 3])
    scores, groups = torch.tensor([[0.1, 0.9, 0.5]]), torch.tensor([[0, 0, 7]])
    indices, kept = nms(boxes, scores, groups, torch.ones(1, 3, dtype=torch.bool), 0.5, 3)
    assert indices[kept].tolist() == [1, 2]


def test_invalid_boxes_suppress_nothing() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10]] * 2])
    scores, groups = torch.tensor([[0.1, 0.9]]), torch.zeros(1, 2, dtype=torch.int64)
    indices, kept = nms(boxes, scores, groups, torch.tensor([[True, False]]), 0.5, 2)
    assert indices[kept].tolist() == [0]


@pytest.mark.parametrize(("images", "count"), [(2, 0), (0, 5), (2, 5)])
def test_nothing_survives_nothing(images, count) -> None:
    nothing = torch.zeros(images, count, dtype=torch.bool)
    boxes, scores, groups, _ = candidates(images or 1, count)
    indices, kept = nms(boxes[:images], scores[:images], groups[:images], nothing, 0.5, 4)
    assert indices.shape == kept.shape == (images, 4)
    assert not kept.any()


def test_half_precision() -> None:
    boxes, scores, groups, valid = candidates()
    boxes, scores = boxes.half(), scores.half()
    exact = nms(boxes.float(), scores.float(), groups, valid, 0.5, 10)
    for ours, expected in zip(nms(boxes, scores, groups, valid, 0.5, 10), exact, strict=True):
        assert torch.equal(ours, expected)


def test_is_an_operator_that_the_compiler_takes() -> None:
    torch.library.opcheck(nms, (*candidates(), 0.5, 7))
