from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection import _utils as torchvision_utils

from detseg.modules import BalancedSampler, Matcher
from detseg.modules.target_assignment import ANCHORS, IGNORED, NEGATIVE, POSITIVE, uniform

ALL = torch.ones(1, 1, dtype=torch.bool)


def match(iou: Tensor, valid: Tensor, allow_low_quality_matches: bool) -> tuple[Tensor, Tensor]:
    return Matcher(0.7, 0.3, allow_low_quality_matches)(iou, valid)


def sample(positive: Tensor, negative: Tensor, count: int, fraction: float) -> tuple[Tensor, Tensor]:
    images, candidates = positive.shape
    priority = uniform(torch.randint(2**62, (images,)), torch.arange(candidates), ANCHORS)
    return BalancedSampler(count, fraction)(positive, negative, priority)


def reference(iou: Tensor, high: float, low: float, allow_low_quality_matches: bool) -> tuple[Tensor, Tensor]:
    """torchvision's answer for the real ground truths (N, A) of one image, as matched ground truth and kind."""
    if len(iou) == 0:  # its callers do this for it
        return torch.full((iou.shape[1],), -1), torch.full((iou.shape[1],), NEGATIVE)
    matcher = torchvision_utils.Matcher
    result = matcher(high, low, allow_low_quality_matches=allow_low_quality_matches)(iou)
    kind = torch.where(result >= 0, POSITIVE, torch.where(result == matcher.BELOW_LOW_THRESHOLD, NEGATIVE, IGNORED))
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
    matched, kind = match(iou, valid, allow_low_quality_matches)
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
    assert match(torch.tensor([[[overlap]]]), ALL, allow_low_quality_matches=False)[1].item() == expected


def test_padding_matches_nothing() -> None:
    iou = torch.tensor([[[0.1, 0.2], [0.9, 1.0]]])
    _, kind = match(iou, torch.tensor([[True, False]]), allow_low_quality_matches=False)
    assert kind.tolist() == [[NEGATIVE, NEGATIVE]]


def test_not_even_nan_in_the_padding_is_read() -> None:
    iou = torch.tensor([[[0.1, 0.8], [torch.nan, torch.nan]]])
    matched, kind = match(iou, torch.tensor([[True, False]]), allow_low_quality_matches=True)
    assert kind.tolist() == [[NEGATIVE, POSITIVE]]
    assert matched[0, 1] == 0


@pytest.mark.parametrize("objects", [0, 2])
@pytest.mark.parametrize("allow_low_quality_matches", [False, True])
def test_without_ground_truth_all_is_background(objects, allow_low_quality_matches) -> None:
    matched, kind = match(
        torch.rand(2, objects, 5), torch.zeros(2, objects, dtype=torch.bool), allow_low_quality_matches
    )
    assert matched.shape == kind.shape == (2, 5)
    assert (matched.dtype, kind.dtype) == (torch.int64, torch.int8)
    assert (kind == NEGATIVE).all()


def test_low_quality_keeps_the_best_of_every_ground_truth() -> None:
    iou = torch.tensor([[[0.1, 0.2, 0.2], [0.8, 0.4, 0.0]]])
    _, kind = match(iou, torch.ones(1, 2, dtype=torch.bool), allow_low_quality_matches=True)
    assert kind.tolist() == [[POSITIVE, POSITIVE, POSITIVE]]


def test_a_low_quality_match_belongs_to_what_it_overlaps_most() -> None:
    """Candidate 0 is the best of ground truth 0, but overlaps ground truth 1 more, as in torchvision."""
    iou = torch.tensor([[[0.2, 0.1], [0.4, 0.9]]])
    matched, kind = match(iou, torch.ones(1, 2, dtype=torch.bool), allow_low_quality_matches=True)
    assert kind.tolist() == [[POSITIVE, POSITIVE]]
    assert matched.tolist() == [[1, 1]]


def test_a_ground_truth_that_nothing_overlaps_makes_nobody_positive() -> None:
    """Unlike torchvision, where every candidate is the best of it, with an overlap of 0."""
    iou = torch.tensor([[[0.0, 0.0, 0.0], [0.8, 0.1, 0.0]]])
    _, kind = match(iou, torch.ones(1, 2, dtype=torch.bool), allow_low_quality_matches=True)
    assert kind.tolist() == [[POSITIVE, NEGATIVE, NEGATIVE]]
    assert reference(iou[0], 0.7, 0.3, True)[1].tolist() == [POSITIVE] * 3


def test_candidates_below_the_least_iou_are_ignored() -> None:
    """Fast R-CNN, section 2.3: background has IoU in [0.1, 0.5); without an object, nothing has."""
    matcher = Matcher(0.5, 0.5, allow_low_quality_matches=False, min_bg_iou=0.1)
    _, kind = matcher(torch.tensor([[[0.5, 0.4999, 0.1, 0.0999]]]), ALL)
    assert kind.tolist() == [[POSITIVE, NEGATIVE, NEGATIVE, IGNORED]]
    for objects in (0, 2):
        nothing = torch.zeros(1, objects, dtype=torch.bool)
        assert matcher(torch.rand(1, objects, 3), nothing)[1].tolist() == [[IGNORED] * 3]


def mask(count: int, *chosen: int) -> Tensor:
    return torch.zeros(1, count, dtype=torch.bool).index_fill(1, torch.tensor(chosen, dtype=torch.int64), True)


@settings(deadline=None, max_examples=150)
@given(
    kinds=st.lists(st.sampled_from(["positive", "negative", "neither"]), min_size=1, max_size=20),
    count=st.integers(1, 25),
    fraction=st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]),
)
def test_draws_what_the_paper_asks_for(kinds, count, fraction) -> None:
    positive = torch.tensor([[kind == "positive" for kind in kinds]])
    negative = torch.tensor([[kind == "negative" for kind in kinds]])
    indices, valid = sample(positive, negative, count, fraction)
    slots = min(count, len(kinds))
    assert indices.shape == valid.shape == (1, slots)
    drawn = indices[0, valid[0]].tolist()
    chosen = [kinds[index] for index in drawn]
    assert len(set(drawn)) == len(drawn)
    positives = min(int(count * fraction), kinds.count("positive"))
    negatives = min(slots - positives, kinds.count("negative"))
    assert chosen == ["positive"] * positives + ["negative"] * negatives
    assert valid[0].tolist() == [True] * len(drawn) + [False] * (slots - len(drawn))


@pytest.mark.parametrize(("count", "fraction"), [(32, 0.25), (8, 0.25), (64, 0.5), (3, 1.0)])
@pytest.mark.parametrize(("positives", "negatives"), [(8, 0), (8, 8), (2, 30), (0, 9), (40, 5)])
def test_as_many_as_torchvision_draws(positives, negatives, count, fraction) -> None:
    matched = torch.tensor([1] * positives + [0] * negatives + [-1])
    (expected,), (others,) = torchvision_utils.BalancedPositiveNegativeSampler(count, fraction)([matched])
    indices, valid = sample(matched[None] == 1, matched[None] == 0, count, fraction)
    drawn = matched[indices[valid]]
    assert (drawn == 1).sum() == expected.sum()
    assert (drawn == 0).sum() == others.sum()


def test_images_are_drawn_from_on_their_own() -> None:
    positive = torch.cat([mask(6, 0, 1, 2), mask(6), mask(6, 5)])
    negative = torch.cat([mask(6, 3, 4, 5), mask(6), mask(6, 0)])
    indices, valid = sample(positive, negative, 4, 0.5)
    assert valid.tolist() == [[True] * 4, [False] * 4, [True, True, False, False]]
    assert set(indices[0, :2].tolist()) < {0, 1, 2}
    assert set(indices[0, 2:].tolist()) < {3, 4, 5}
    assert indices[2, :2].tolist() == [5, 0]


def test_every_candidate_is_equally_likely() -> None:
    torch.manual_seed(0)
    draws = 4000
    positive, negative = mask(16, *range(6)), mask(16, *range(6, 16))
    indices, _ = sample(positive.expand(draws, -1), negative.expand(draws, -1), 8, 0.5)
    share = indices.flatten().bincount(minlength=16) / draws
    # Six standard deviations of a share: 0.047 of 4 in 6, 0.046 of 4 in 10.
    torch.testing.assert_close(share[:6], torch.full((6,), 4 / 6), rtol=0, atol=0.05)
    torch.testing.assert_close(share[6:], torch.full((10,), 4 / 10), rtol=0, atol=0.05)


def test_every_pair_is_equally_likely() -> None:
    """Which candidates are drawn together depends on nothing either."""
    torch.manual_seed(0)
    draws = 6000
    indices, _ = sample(mask(4).expand(draws, -1), mask(4, 0, 1, 2, 3).expand(draws, -1), 2, 0.5)
    pairs = (1 << indices).sum(dim=1).bincount(minlength=13)[[3, 5, 6, 9, 10, 12]] / draws
    torch.testing.assert_close(pairs, torch.full((6,), 1 / 6), rtol=0, atol=0.03)
