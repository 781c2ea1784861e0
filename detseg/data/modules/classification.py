"""Data module of classification."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from detseg.data.annotations.images import read_image
from detseg.data.annotations.table import ClassificationIndex
from detseg.data.loading.collate import PadShapes
from detseg.data.loading.dataset import SampleDataset
from detseg.data.loading.samplers import Key
from detseg.data.modules.base import BaseDataModule
from detseg.data.splits import Split, split_indices
from detseg.data.transforms import ImageSample, RandomHorizontalFlip, RandomResizedCrop, Transform
from detseg.errors import ConfigError, DataError
from detseg.preprocessing import CenterCropConfig
from detseg.structures import Sample


class ClassificationDataset(SampleDataset[ClassificationIndex]):
    """Images of one size, each with one object: its class, over the whole image."""

    def read(self, row: int) -> ImageSample:
        """Read an image."""
        return ImageSample(read_image(self.annotations.path(row)))

    def __getitem__(self, key: int | Key) -> Sample:
        """Read an image as ``SampleDataset`` does; its object is where the transforms end."""
        sample = super().__getitem__(key)
        height, width = sample.image.shape[1:]
        label = self.annotations.labels[sample.image_index : sample.image_index + 1]
        return sample._replace(boxes=torch.tensor([[0.0, 0.0, width, height]]), labels=torch.from_numpy(label))


class ClassificationDataModule(BaseDataModule[ClassificationIndex]):
    """A data set of images with one class each; of one that is not split, a share of each class is for validation.

    ``transforms`` must give images of one size, as ``RandomResizedCrop`` does. The arguments are those of
    ``BaseDataModule``.

    Raises ConfigError for invalid values, DataError for a folder without classes or images.
    """

    task = "classification"
    default_format = "ImageFolders"
    default_batch_size = 32
    min_batch_size = 2  # batch norm of a map of one cell needs more than one value
    dataset_cls = ClassificationDataset

    @staticmethod
    def default_transforms() -> list[Transform]:
        """Return the transforms of ImageNet classifiers: a random part, 224 pixels large, flipped at random."""
        return [RandomResizedCrop(), RandomHorizontalFlip()]

    def check_transforms(self) -> None:
        """Raise ConfigError unless images are preprocessed to one size."""
        if not isinstance(self.preprocessing, CenterCropConfig):
            raise ConfigError("transforms: a classifier needs images of one size; add RandomResizedCrop")

    def _split_indices(self, whole: ClassificationIndex, split: Split) -> NDArray[np.int64]:
        """Draw one side of a random split of each class. Raises DataError for a class of one image."""
        fraction = self.split.get("val_fraction", 0.2)
        members = [np.flatnonzero(whole.labels == label) for label in range(len(whole.classes))]
        for name, indices in zip(whole.classes, members, strict=True):
            if len(indices) < 2:
                raise DataError(f"{whole.root / name}: one image cannot be shared between training and validation")
        seed = self.split.get("seed", 0)
        return np.concatenate([indices[split_indices(len(indices), fraction, split, seed)] for indices in members])

    @property
    def train_pad_shapes(self) -> PadShapes:
        """The size of every batch, which a classifier takes as it is."""
        return self.pad_shapes
