from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.data.loading.samplers import EvaluationSampler, TrainingSampler

GROUPS = st.lists(st.integers(-1, 3), min_size=1, max_size=40).map(np.array)
BATCH = st.integers(1, 5)
RANKS = st.integers(1, 4)


def training(groups: np.ndarray, batch: int, ranks: int, epoch: int = 0, seed: int = 0) -> list[list[list[int]]]:
    """Rows of each batch of each rank."""
    found = []
    for rank in range(ranks):
        sampler = TrainingSampler(groups, batch, seed, rank, ranks)
        sampler.set_epoch(epoch)
        found.append([[row for row, _ in rows] for rows in sampler])
        assert len(found[-1]) == len(sampler)
    return found


@settings(deadline=None)
@given(GROUPS, BATCH, RANKS, st.integers(0, 5))
def test_training_takes_every_image_once(groups: np.ndarray, batch: int, ranks: int, epoch: int) -> None:
    found = training(groups, batch, ranks, epoch)
    assert len({len(batches) for batches in found}) == 1
    counts = Counter(row for batches in found for rows in batches for row in rows)
    assert set(counts) == set(range(len(groups)))
    assert counts.total() - len(groups) < ranks  # some come twice only to give every rank something
    assert all(1 <= len(rows) <= batch for batches in found for rows in batches)
    if len(groups) % (batch * ranks) >= ranks or len(groups) % (batch * ranks) == 0:
        assert max(counts.values()) == 1


@settings(deadline=None)
@given(GROUPS, BATCH, RANKS)
def test_steps_are_of_one_group_as_far_as_they_go(groups: np.ndarray, batch: int, ranks: int) -> None:
    found = training(groups, batch, ranks)
    pure = Counter()
    for step in zip(*found, strict=True):
        present = {int(groups[row]) for rows in step for row in rows}
        if len(present) == 1 and sum(map(len, step)) == batch * ranks:
            pure[present.pop()] += 1
    for group, count in Counter(groups.tolist()).items():
        assert pure[group] >= count // (batch * ranks)


@given(GROUPS, st.integers(1, 3), st.integers(2, 3))
def test_ranks_share_the_steps_of_one(groups: np.ndarray, batch: int, ranks: int) -> None:
    alone = training(groups, batch * ranks, 1)[0]
    shared = training(groups, batch, ranks)
    for together, *parts in zip(alone, *shared, strict=True):
        concat_contours = [row for rows in parts for row in rows]
        assert concat_contours == together or (len(together) < ranks and set(concat_contours) == set(together))


def test_epochs_and_seeds_shuffle_anew_and_again_the_same() -> None:
    groups = np.zeros(50, dtype=int)
    assert training(groups, 4, 2, epoch=3) == training(groups, 4, 2, epoch=3)
    orders = [training(groups, 4, 2, epoch, seed) for epoch in range(3) for seed in range(3)]
    assert all(orders.count(order) == 1 for order in orders)
    together = [{frozenset(rows) for rows in batches} for batches, _ in orders]
    assert all(not one & other for one, other in pairwise(together))  # other images each time
    draws = []
    for epoch in range(3):
        sampler = TrainingSampler(groups, 4)
        sampler.set_epoch(epoch)
        draws += [seed for rows in sampler for _, seed in rows]
    assert len(set(draws)) == 150  # each image is changed differently in each epoch


def test_lightning_finds_set_epoch() -> None:
    sampler = TrainingSampler(np.zeros(3), 1)
    sampler.sampler.set_epoch(7)
    assert sampler.epoch == 7


@given(GROUPS, BATCH, RANKS)
def test_evaluation_takes_every_image_once_in_the_same_batches(groups: np.ndarray, batch: int, ranks: int) -> None:
    alone = list(EvaluationSampler(groups, batch))
    samplers = [EvaluationSampler(groups, batch, rank, ranks) for rank in range(ranks)]
    shards = [list(sampler) for sampler in samplers]
    assert {len(shard) for shard in shards} == {len(samplers[0])} == {-(-len(alone) // ranks)}
    assert [rows for shard in shards for rows in shard if rows] == alone
    assert sorted(row for rows in alone for row in rows) == list(range(len(groups)))
    assert all(len({int(groups[row]) for row in rows}) == 1 and len(rows) <= batch for rows in alone)
    assert all(not shard[i] or shard[i - 1] for shard in shards for i in range(1, len(shard)))  # empty ones last
    assert shards[0][0]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_no_rank_has_fewer_than_the_least_of_a_step(ranks: int) -> None:
    samplers = [TrainingSampler(np.zeros(13, int), 4, 0, rank, ranks, min_batch_size=2) for rank in range(ranks)]
    batches = [list(sampler) for sampler in samplers]
    assert min(len(batch) for own in batches for batch in own) >= 2
    assert {row for own in batches for batch in own for row, _ in batch} == set(range(13))
