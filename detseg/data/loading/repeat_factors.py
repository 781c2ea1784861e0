"""Sample images of rare classes more often in an epoch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detseg.configurable import Configurable
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.errors import ConfigError


class ImageSampling(Configurable):
    """The number of times that each image occurs in an epoch."""

    def repeat_factors(self, annotations: DetectionAnnotations) -> NDArray[np.float64]:
        """Return the mean number of times (I,) that each image occurs in an epoch: 0.5 is in every other one."""
        raise NotImplementedError


class RepeatFactor(ImageSampling):
    """Repeat images of rare classes: repeat factor sampling, of LVIS (Gupta et al. 2019).

    A class in a share f of the images has the factor max(1, sqrt(``threshold`` / f)), an image the largest of its
    classes. Each comes once at least. Raises ConfigError for a ``threshold`` that is no share.
    """

    def __init__(self, threshold: float = 0.001) -> None:
        if not 0 < threshold <= 1:
            raise ConfigError(f"data.sampling: threshold {threshold} must be above 0 and not above 1, such as 0.001")
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
