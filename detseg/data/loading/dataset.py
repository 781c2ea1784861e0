"""The samples of a split: images read with their labels, transformed and turned into tensors; bad ones are skipped."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from detseg.data.annotations.table import ImageTable
from detseg.data.loading.samplers import Key
from detseg.data.transforms.geometry import ImageSample
from detseg.data.transforms.transform import SampleOther, Transform, apply_transforms, preprocess, preprocessing_of
from detseg.errors import DataError
from detseg.structures import Sample

log = logging.getLogger(__name__)

BadSamples = Literal["error", "skip"]
ONE_IN = 1000  # of so many images of a set, one may be left out
T = TypeVar("T", bound=ImageTable)


class SampleDataset(Dataset[Sample], Generic[T]):
    """The images of a table; subclasses read one with its labels.

    Training applies the transforms, evaluation the ``preprocessing`` of the last one that has it.
    """

    sample_other: SampleOther | None = None  # draws another image, for transforms that mix them

    def __init__(self, annotations: T, transforms: Sequence[Transform], training: bool) -> None:
        self.annotations, self.transforms, self.training = annotations, transforms, training

    def __len__(self) -> int:
        """Count the images."""
        return len(self.annotations)

    def read(self, row: int) -> ImageSample:
        """Read an image with its labels, without transforms."""
        raise NotImplementedError

    def __getitem__(self, key: int | Key) -> Sample:
        """Read an image by index; a training sampler adds the seed of its augmentation, else the index is the seed.

        Raises DataError for a label that is not a class: training would take that after the last for the background.
        """
        row, seed = key if isinstance(key, tuple) else (key, key)
        sample = self.read(row)
        height, width = sample.image.shape[:2]
        if self.training:
            sample = apply_transforms(self.transforms, sample, seed, self.sample_other)
        else:
            sample = preprocess(sample, preprocessing_of(self.transforms))
        count = len(self.annotations.classes)
        if len(sample.labels) and not 0 <= sample.labels.min() <= sample.labels.max() < count:
            label = next(label for label in sample.labels.tolist() if not 0 <= label < count)
            raise DataError(f"{self.annotations.path(row)}: has the label {label}, but labels go from 0 to {count - 1}")
        return to_sample(sample, row, (height, width))._replace(seed=seed)


def to_sample(sample: ImageSample, image_index: int, original_size: tuple[int, int]) -> Sample:
    """Convert the arrays of an image to tensors."""
    return Sample(
        image=torch.from_numpy(np.ascontiguousarray(sample.image)).permute(2, 0, 1),
        boxes=torch.from_numpy(sample.boxes),
        labels=torch.from_numpy(sample.labels),
        image_index=image_index,
        original_size=original_size,
        masks=_tensor(sample.masks),
        proposals=_tensor(sample.proposals),
        semantic=_tensor(sample.semantic),
    )


def _tensor(array: np.ndarray | None) -> Tensor | None:
    return None if array is None else torch.from_numpy(np.ascontiguousarray(array))


class SkipBadSamples(Dataset[Sample]):
    """The samples of ``dataset``; in the place of one that raises DataError comes the next one that does not.

    The log names each such image once, whichever worker met it. Raises DataError where more than one in ONE_IN, and
    more than one at all, cannot be used. Each process of a training on several GPUs counts those that it met itself.
    """

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self.dataset = dataset
        self.bad = torch.zeros(len(dataset), dtype=torch.bool)  # type: ignore[arg-type]
        self.bad.share_memory_()  # type: ignore[no-untyped-call]
        self.budget = max(1, len(self.bad) // ONE_IN)

    def __len__(self) -> int:
        """Count the images, bad ones included."""
        return len(self.bad)

    def __getitem__(self, key: int | Key) -> Sample:
        """Read the image of a row as ``dataset`` does, or another one with the same random changes."""
        row, *seed = key if isinstance(key, tuple) else (key,)
        for place in (*range(row, len(self)), *range(row)):
            if not self.bad[place]:
                try:
                    return self.dataset[(place, *seed) if seed else place]
                except DataError as error:
                    self._leave_out(place, error)
        raise DataError("no image of the set can be used")

    def _leave_out(self, row: int, error: DataError) -> None:
        self.bad[row] = True
        count = int(self.bad.sum())
        if count > self.budget:
            raise DataError(
                f"{count} of {len(self)} images cannot be used, and `bad_samples='skip'` allows {self.budget} "
                f"({100 / ONE_IN:g} %, at least 1): {error}. A data set check with decoding lists all of them"
            ) from None
        log.warning("left out, %d of at most %d images: %s", count, self.budget, error)
