from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from detseg.inference.batching import AHEAD, MAX_WAIT, batch_by_shape, in_order, map_ahead


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batches_have_one_shape_and_results_their_order(batch_size: int) -> None:
    shapes = np.random.default_rng(0).choice(5, size=200, p=[0.6, 0.3, 0.06, 0.03, 0.01]).tolist()
    batches = list(batch_by_shape(shapes, lambda shape: shape, batch_size))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len({shape for _, shape in batch}) == 1
    assert sorted(item for batch in batches for item in batch) == list(enumerate(shapes))
    assert list(in_order(item for batch in batches for item in batch)) == shapes


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_rare_shape_does_not_keep_the_stream_waiting(batch_size: int) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        yield "rare"
        while True:
            read += 1
            yield "common"

    batches = batch_by_shape(endless(), lambda shape: shape, batch_size)
    results = in_order(item for batch in batches for item in batch)
    assert next(results) == "rare"
    assert read <= MAX_WAIT * batch_size
    for _ in range(1000):
        assert next(results) == "common"
    assert read <= 1000 + (MAX_WAIT + 1) * batch_size


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_threads_work_ahead_in_order_and_in_bounds(threads: int) -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(50):
            taken.append(item)
            yield item

    results = map_ahead(lambda item: -item, items(), threads)
    for position, result in enumerate(results):
        assert result == -position
        assert len(taken) <= position + max(1, AHEAD * threads)
    assert position == 49


def test_threads_compute_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=20)  # broken unless three items are computed at once
    assert list(map_ahead(lambda _: together.wait() >= 0, range(6), 3)) == [True] * 6


def test_an_item_that_cannot_wait_is_computed_before_the_next_is_taken() -> None:
    buffer = [0]

    def frames() -> Iterator[list[int]]:
        for number in range(20):
            buffer[0] = number
            yield buffer

    assert list(map_ahead(lambda frame: frame[0], frames(), 4, lambda _: False)) == list(range(20))


def test_an_error_of_a_thread_comes_at_its_place() -> None:
    results = map_ahead(lambda item: 1 / item, [2, 1, 0, 4], 2)
    assert [next(results), next(results)] == [0.5, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
