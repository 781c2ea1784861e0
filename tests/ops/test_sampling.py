from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from detseg.ops.sampling import sample


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
    (expected,), (others,) = BalancedPositiveNegativeSampler(count, fraction)([matched])
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
