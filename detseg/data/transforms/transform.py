"""The base class of transforms, and their application to a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from detseg.configurable import Configurable
from detseg.data.transforms.geometry import ImageSample, clip_proposals
from detseg.errors import ConfigError
from detseg.preprocessing import Preprocessing

SampleOther = Callable[[np.random.Generator], ImageSample]  # draws another image of the data set


class Transform(Configurable):
    """A change of training images: derive a class from it, and name the class in ``transforms``.

    Every random number must come from the generator, so that an image and a seed always give the same sample.

    Evaluation and prediction resize images as ``preprocessing`` of the last transform that has one, and apply no
    transform: of a list without any, images keep their size.
    """

    preprocessing: Preprocessing = None
    crop_size: int | None = None  # edge of a square that holds every image after the transform

    def __call__(self, sample: ImageSample, generator: np.random.Generator) -> ImageSample:
        """Return a changed copy of a sample. Its arrays may be shared and must not be written to."""
        raise NotImplementedError


class MixTransform(Transform):
    """A transform that mixes an image, with probability ``p``, with ``num_others`` other images of the data set.

    The others pass through the transforms before this one in the list.
    """

    num_others = 1
    needs_masks = False

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_probability(self, p)

    def __call__(self, sample: ImageSample, generator: np.random.Generator) -> ImageSample:
        raise ConfigError(f"transforms: {type(self).__name__} mixes objects of detection data sets")

    def mix(self, sample: ImageSample, others: Sequence[ImageSample], generator: np.random.Generator) -> ImageSample:
        """Return a sample that is made of several."""
        raise NotImplementedError


def apply_transforms(
    transforms: Sequence[Transform], sample: ImageSample, seed: int, sample_other: SampleOther | None = None
) -> ImageSample:
    """Apply training transforms in order, with the random numbers of ``seed``; proposals are clipped at the end.

    ``sample_other`` draws images to mix. Raises ConfigError for a MixTransform without it.
    """
    return clip_proposals(_apply(transforms, sample, np.random.default_rng(seed), sample_other))


def _apply(
    transforms: Sequence[Transform],
    sample: ImageSample,
    generator: np.random.Generator,
    sample_other: SampleOther | None,
) -> ImageSample:
    for position, transform in enumerate(transforms):
        if not isinstance(transform, MixTransform) or sample_other is None:
            sample = transform(sample, generator)
        elif generator.random() < transform.p:
            others = [
                _apply(transforms[:position], sample_other(generator), generator, sample_other)
                for _ in range(transform.num_others)
            ]
            sample = transform.mix(sample, others, generator)
    return sample


def preprocessing_of(transforms: Sequence[Transform]) -> Preprocessing:
    """Return how evaluation and prediction resize images: as the last transform that has ``preprocessing``."""
    return next((transform.preprocessing for transform in reversed(transforms) if transform.preprocessing), None)


def crop_size_of(transforms: Sequence[Transform]) -> int | None:
    """Return the edge of the square that holds every training image, None if the last resizing has no such limit."""
    for transform in reversed(transforms):
        if transform.crop_size or transform.preprocessing:
            return transform.crop_size
    return None


def check_probability(transform: Transform, value: float, name: str = "p") -> float:
    """Return a probability. Raises ConfigError if it is none."""
    if not 0 <= value <= 1:
        raise ConfigError(f"transforms: {type(transform).__name__}: {name} {value} must be between 0 and 1")
    return value
