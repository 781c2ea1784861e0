"""Which images go into which batch, on which rank. The samplers know the ranks: nothing needs to wrap them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

Key = tuple[int, int]  # row of an image, and the seed of what is drawn at random for it


class TrainingSampler(Sampler[list[Key]]):
    """Batches of all images, shuffled anew in each epoch, each of images of one group as far as they go.

    A step is ``batch_size`` images on each of the ``ranks``, all of one group, so that no rank waits for another's
    larger images. What is left of the groups is put together in order of the groups; the last step is shared out
    evenly. Every image comes once in an epoch, or as often on average as ``repeat_factors`` (I,) says, rounded up or
    down anew in each epoch; only where the last step has fewer than ``min_batch_size`` images for each rank do some
    come once more. All epochs and ranks have the same number of batches, and one rank sees the same steps as several.
    """

    def __init__(
        self,
        bucket_ids: NDArray[Any],
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        min_batch_size: int = 1,
        repeat_factors: NDArray[np.float64] | None = None,
    ) -> None:
        self.bucket_ids, self.batch_size, self.seed, self.rank, self.ranks = bucket_ids, batch_size, seed, rank, ranks
        self.min_batch_size, self.repeat_factors = min_batch_size, repeat_factors
        self.total = len(bucket_ids) if repeat_factors is None else max(1, round(float(repeat_factors.sum())))
        self.epoch = 0

    @property
    def sampler(self) -> TrainingSampler:
        """Itself: Lightning looks here for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Count the batches of a rank."""
        return -(-self.total // (self.batch_size * self.ranks))

    def __iter__(self) -> Iterator[list[Key]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        images = np.arange(self.total) if self.repeat_factors is None else self._drawn(generator)
        order = generator.permutation(self.total)
        seeds = generator.integers(2**63, size=self.total)
        step = self.batch_size * self.ranks
        groups = self.bucket_ids[images]
        members = [order[groups[order] == group] for group in np.unique(groups)]
        whole = [rows[: len(rows) - len(rows) % step].reshape(-1, step) for rows in members]
        rest = np.concatenate([rows[len(rows) - len(rows) % step :] for rows in members])
        steps = [*np.concatenate(whole), *(rest[i : i + step] for i in range(0, len(rest), step))]
        for i in generator.permutation(len(steps)):
            places = np.resize(steps[i], max(len(steps[i]), self.ranks * self.min_batch_size))
            yield [(int(images[place]), int(seeds[place])) for place in np.array_split(places, self.ranks)[self.rank]]

    def _drawn(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """The images of an epoch (total,), each as often as ``repeat_factors`` says, rounded up or down.

        Systematic sampling: one number at random decides for all, so that the sum is always the same.
        """
        assert self.repeat_factors is not None
        order = generator.permutation(len(self.repeat_factors))
        reached = np.cumsum(self.repeat_factors[order])
        ends = np.floor(reached * (self.total / reached[-1]) + generator.random())
        ends[-1] = self.total  # which rounding could miss
        return np.repeat(order, np.diff(ends, prepend=0).astype(np.int64))


class EvaluationSampler(Sampler[list[int]]):
    """Batches of all images, group by group, each on one rank alone.

    The batches are the same however many ranks there are, and each rank takes a run of them: nothing is repeated to
    fill up, so that the detections, and what is measured on them, do not depend on the ranks. For those that have fewer
    batches the last ones are empty, since all ranks must take the same number of steps together.
    """

    def __init__(self, bucket_ids: NDArray[Any], batch_size: int, rank: int = 0, ranks: int = 1) -> None:
        members = [np.flatnonzero(bucket_ids == bucket) for bucket in np.unique(bucket_ids)]
        batches = [rows[i : i + batch_size].tolist() for rows in members for i in range(0, len(rows), batch_size)]
        self.length = -(-len(batches) // ranks)
        first, end = (-(-len(batches) * r // ranks) for r in (rank, rank + 1))
        self.batches: list[list[int]] = batches[first:end]

    def __len__(self) -> int:
        """Count the batches of a rank, empty ones included."""
        return self.length

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches
        yield from ([] for _ in range(self.length - len(self.batches)))
