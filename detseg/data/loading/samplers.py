"""Samplers: the images of each batch on each rank, and how often an image comes. Nothing needs to wrap them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from detseg.configurable import Configurable
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.errors import ConfigError

Key = tuple[int, int]  # row of an image, and the seed of what is drawn at random for it


def global_seed() -> int:
    """Return the seed that ``seed_everything`` set, 0 without one."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def seed_step(*position: int) -> None:
    """Seed the global generators by the position of a step, so that a resumed training draws the same numbers."""
    entropy = (global_seed(), *position)
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))


class TrainingSampler(Sampler[list[Key]]):
    """Batches of all images, shuffled anew in each epoch, each of images of one group as far as they go.

    A step is ``batch_size`` images on each of the ``ranks``, all of one group, so that no rank waits for another's
    larger images. What is left of the groups is put together in order of the groups; the last step is shared out
    evenly. Every image comes once in an epoch, or as often on average as ``repeat_factors`` (I,) says, rounded up or
    down anew in each epoch; only where the last step has fewer than ``min_batch_size`` images for each rank do some
    come once more. All epochs and ranks have the same number of batches, and one rank sees the same steps as several.

    ``first_batch`` returns the batches of the epoch that a resumed training has behind it; they are passed over.
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
        first_batch: Callable[[], int] = lambda: 0,
    ) -> None:
        self.first_batch = first_batch
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
        for i in generator.permutation(len(steps))[self.first_batch() :]:
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


class ImageSampling(Configurable):
    """The number of times that each image occurs in an epoch."""

    def repeat_factors(self, annotations: DetectionAnnotations) -> NDArray[np.float64]:
        """Return the mean number of times (I,) that each image occurs in an epoch: 0.5 is in every other one."""
        raise NotImplementedError


class RepeatFactor(ImageSampling):
    """Repeat images of rare classes: repeat factor sampling, of LVIS (Gupta et al. 2019).

    A class in a share f of the images has the factor max(1, sqrt(``threshold`` / f)), an image the largest of its
    classes. Each comes once at least. Raises ConfigError for a ``threshold`` that is not a fraction.
    """

    def __init__(self, threshold: float = 0.001) -> None:
        if not 0 < threshold <= 1:
            raise ConfigError(f"RepeatFactor: threshold {threshold} must be above 0 and not above 1, such as 0.001")
        self.threshold = threshold

    def repeat_factors(self, annotations: DetectionAnnotations) -> NDArray[np.float64]:
        images, labels = present(annotations)
        share = np.bincount(labels, minlength=len(annotations.classes)).clip(1) / len(annotations)
        times = np.ones(len(annotations))
        np.maximum.at(times, images, np.sqrt(self.threshold / share)[labels])
        return times


class ClassBalanced(ImageSampling):
    """Every class comes as often as every other: first a class is drawn, then an image with it (Shen et al. 2016).

    An epoch has as many images as there are; those without objects come once.
    """

    def repeat_factors(self, annotations: DetectionAnnotations) -> NDArray[np.float64]:
        images, labels = present(annotations)
        counts = np.bincount(labels, minlength=len(annotations.classes))
        times = np.bincount(images, weights=1 / counts[labels], minlength=len(annotations))
        filled = times > 0
        times *= filled.sum() / max(np.count_nonzero(counts), 1)
        return np.where(filled, times, 1.0)


def present(annotations: DetectionAnnotations) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each image (n,) with each class (n,) of its objects, without crowds and difficult ones."""
    learnt = ~(annotations.crowd | annotations.difficult)
    images = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))[learnt]
    pairs = np.unique(images * len(annotations.classes) + annotations.labels[learnt])
    images_of_pairs, labels = np.divmod(pairs, max(len(annotations.classes), 1))
    return images_of_pairs, labels
