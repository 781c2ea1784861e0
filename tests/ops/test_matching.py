from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import Matcher

from detseg.ops.matching import IGNORED, NEGATIVE, POSITIVE, match

ALL = torch.ones(1, 1, dtype=torch.bool)


def reference(iou: Tensor, high: float, low: float, allow_low_quality_matches: bool) -> tuple[Tensor, Tensor]:
    """torchvision's answer for the real ground truths (N, A) of one image, as matched ground truth and kind."""
    if len(iou) == 0:  # its callers do this for it
        return torch.full((iou.shape[1],), -1), torch.full((iou.shape[1],), NEGATIVE)
    result = Matcher(high, low, allow_low_quality_matches=allow_low_quality_matches)(iou)
    kind = torch.where(result >= 0, POSITIVE, torch.where(result == Matcher.BELOW_LOW_THRESHOLD, NEGATIVE, IGNORED))
    return result, kind


@pytest.mark.parametrize("allow_low_quality_matches", [False, True])
@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 2**31), objects=st.integers(0, 4), ties=st.booleans())
def test_agrees_with_torchvision_image_by_image(allow_low_quality_matches, seed, objects, ties) -> None:
    torch.manual_seed(seed)
    iou = torch.rand(3, objects, 12)
    if ties:
        iou = (iou * 10).round() / 10
    iou = iou.clamp(min=0.01)  # where a ground truth overlaps nothing, the two differ on purpose
    valid = torch.rand(3, objects) < 0.7
    matched, kind = match(iou, valid, 0.7, 0.3, allow_low_quality_matches)
    for image in range(3):
        rows = valid[image].nonzero()[:, 0]
        expected, expected_kind = reference(iou[image, rows], 0.7, 0.3, allow_low_quality_matches)
        assert kind[image].tolist() == expected_kind.tolist()
        positive = expected >= 0
        assert matched[image, positive].tolist() == rows[expected[positive]].tolist()


@pytest.mark.parametrize(
    ("overlap", "expected"), [(0.7, POSITIVE), (0.6999, IGNORED), (0.3, IGNORED), (0.2999, NEGATIVE), (0, NEGATIVE)]
)
def test_thresholds_belong_to_the_kind_above(overlap, expected) -> None:
    assert match(torch.tensor([[[overlap]]]), ALL, 0.7, 0.3, allow_low_quality_matches=False)[1].item() == expected


def test_padding_matches_nothing() -> None:
    iou = torch.tensor([[[0.1, 0.2], [0.9, 1.0]]])
    _, kind = match(iou, torch.tensor([[True, False]]), 0.7, 0.3, allow_low_quality_matches=False)
    assert kind.tolist() == [[NEGATIVE, NEGATIVE]]


def test_not_even_nan_in_the_padding_is_read() -> None:
    iou = torch.tensor([[[0.1, 0.8], [torch.nan, torch.nan]]])
    matched, kind = match(iou, torch.tensor([[True, False]]), 0.7, 0.3, allow_low_quality_matches=True)
    assert kind.tolist() == [[NEGATIVE, POSITIVE]]
    assert matched[0, 1] == 0


@pytest.mark.parametrize("objects", [0, 2])
@pytest.mark.parametrize("allow_low_quality_matches", [False, True])
def test_without_ground_truth_all_is_background(objects, allow_low_quality_matches) -> None:
    matched, kind = match(
        torch.rand(2, objects, 5), torch.zeros(2, objects, dtype=torch.bool), 0.7, 0.3, allow_low_quality_matches
    )
    assert matched.shape == kind.shape == (2, 5)
    assert (matched.dtype, kind.dtype) == (torch.int64, torch.int8)
    assert (kind == NEGATIVE).all()


def test_low_quality_keeps_the_best_of_every_ground_truth() -> None:
    iou = torch.tensor([[[0.1, 0.2, 0.2], [0.8, 0.4, 0.0]]])
    _, kind = match(iou, torch.ones(1, 2, dtype=torch.bool), 0.7, 0.3, allow_low_quality_matches=True)
    assert kind.tolist() == [[POSITIVE, POSITIVE, POSITIVE]]


def test_a_low_quality_match_belongs_to_what_it_overlaps_most() -> None:
    """Candidate 0 is the best of ground truth 0, but overlaps ground truth 1 more, as in torchvision."""
    iou = torch.tensor([[[0.2, 0.1], [0.4, 0.9]]])
    matched, kind = match(iou, torch.ones(1, 2, dtype=torch.bool), 0.7, 0.3, allow_low_quality_matches=True)
    assert kind.tolist() == [[POSITIVE, POSITIVE]]
    assert matched.tolist() == [[1, 1]]


def test_a_ground_truth_that_nothing_overlaps_makes_nobody_positive() -> None:
    """Unlike torchvision, where every candidate is the best of it, with an overlap of 0."""
    iou = torch.tensor([[[0.0, 0.0, 0.0], [0.8, 0.1, 0.0]]])
    _, kind = match(iou, torch.ones(1, 2, dtype=torch.bool), 0.7, 0.3, allow_low_quality_matches=True)
    assert kind.tolist() == [[POSITIVE, NEGATIVE, NEGATIVE]]
    assert reference(iou[0], 0.7, 0.3, True)[1].tolist() == [POSITIVE] * 3
