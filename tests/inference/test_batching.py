from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from detseg.inference.batching import MAX_WAIT, batch_by_shape, in_order


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
