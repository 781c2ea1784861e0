"""Data module of classification."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from detseg.data.annotations.classification import ClassificationIndex
from detseg.data.annotations.images import read_image
from detseg.data.formats.format_detection import AUTO
from detseg.data.loading.collate import PadShapes, to_sample
from detseg.data.loading.samplers import Key
from detseg.data.modules.base import BaseDataModule, SplitConfig
from detseg.data.splits import Split, split_indices
from detseg.data.transforms import ImageSample, RandomHorizontalFlip, RandomResizedCrop, Transform
from detseg.data.transforms.resizing import preprocess
from detseg.data.transforms.transform import apply_transforms, preprocessing_of
from detseg.errors import ConfigError, DataError
from detseg.preprocessing import CenterCropConfig
from detseg.structures import Sample


class ClassificationDataset(Dataset[Sample]):
    """Images of one size, each with one object: its class, over the whole image."""

    def __init__(self, index: ClassificationIndex, transforms: Sequence[Transform], training: bool) -> None:
        self.index, self.transforms, self.training = index, transforms, training

    def __len__(self) -> int:
        """Count the images."""
        return len(self.index)

    def __getitem__(self, key: int | Key) -> Sample:
        """Read an image by index; a training sampler adds the seed of its augmentation, else the index is the seed."""
        row, seed = key if isinstance(key, tuple) else (key, key)
        image = read_image(self.index.path(row))
        original_size = image.shape[:2]
        if self.training:
            sample = apply_transforms(self.transforms, ImageSample(image), seed)
        else:
            sample = preprocess(ImageSample(image), preprocessing_of(self.transforms))
        height, width = sample.image.shape[:2]
        whole = np.array([[0, 0, width, height]], dtype=np.float32)
        return to_sample(sample._replace(boxes=whole, labels=self.index.labels[row : row + 1]), row, original_size)


class ClassificationDataModule(BaseDataModule[ClassificationIndex]):
    """A data set of images with one class each; of one that is not split, a share of each class is for validation.

    ``transforms`` must give images of one size, as ``RandomResizedCrop`` does. The arguments are those of
    ``BaseDataModule``.

    Raises ConfigError for invalid values, DataError for a folder without classes or images.
    """

    task = "classification"
    default_format = "ImageFolders"
    min_batch_size = 2  # batch norm of a map of one cell needs more than one value

    def __init__(
        self,
        root: str,
        split: SplitConfig | None = None,
        transforms: list[Transform] | None = None,
        batch_size: int = 32,
        num_workers: int = 2,
    ) -> None:
        super().__init__(root, AUTO, split, transforms, batch_size, num_workers)
        if not isinstance(self.preprocessing, CenterCropConfig):
            raise ConfigError("transforms: a classifier needs images of one size; add RandomResizedCrop")

    @staticmethod
    def default_transforms() -> list[Transform]:
        """Return the transforms of ImageNet classifiers: a random part, 224 pixels large, flipped at random."""
        return [RandomResizedCrop(), RandomHorizontalFlip()]

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

    def bucket_ids(self, split: Split) -> NDArray[np.int64]:
        """Return one bucket for all images (I,), which are scaled to the same size."""
        return np.zeros(len(self.annotations(split)), dtype=np.int64)

    def dataset(self, split: Split) -> ClassificationDataset:
        """Return the samples of a split."""
        return ClassificationDataset(self.annotations(split), self.transforms, training=split == "train")
