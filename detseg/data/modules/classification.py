"""Data module of classification."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from detseg.data.annotations.classification import ClassificationIndex
from detseg.data.annotations.images import read_image
from detseg.data.formats.format_detection import AUTO
from detseg.data.loading.samplers import Key
from detseg.data.modules.base import BaseDataModule, SplitConfig
from detseg.data.splits import Split, split_indices
from detseg.data.transforms.detection import ImageSample, augment, compose
from detseg.errors import ConfigError, DataError
from detseg.preprocessing import CenterCropConfig
from detseg.structures import Sample

ASPECT = 4 / 3  # of a training crop, at most, either way (GoogLeNet, section 6)
CENTRE = 0.875  # share of the short edge that the evaluation's crop shows: 224 of 256 pixels
NO_BOXES = np.zeros((0, 4), dtype=np.float32)


class ClassificationDataset(Dataset[Sample]):
    """Square images, each with one object: its class, over all of it."""

    def __init__(self, data: ClassificationDataModule, listing: ClassificationIndex, training: bool) -> None:
        self.data, self.listing, self.training = data, listing, training

    def __len__(self) -> int:
        """Count the images."""
        return len(self.listing)

    def __getitem__(self, key: int | Key) -> Sample:
        """Read an image by index; a training sampler adds the seed of its augmentation, else the index is the seed."""
        row, seed = key if isinstance(key, tuple) else (key, key)
        image = read_image(self.listing.path(row))
        height, width = image.shape[:2]
        image = self.data.train_transform(image, seed) if self.training else center_crop(image, self.data.size)
        return Sample(
            image=torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1),
            boxes=torch.tensor([[0.0, 0.0, self.data.size, self.data.size]]),
            labels=torch.from_numpy(self.listing.labels[row : row + 1]),
            image_index=row,
            original_size=(height, width),
        )


class ClassificationDataModule(BaseDataModule[ClassificationIndex]):
    """A data set of images with one class each; of one that is not split, a share of each class is for validation.

    Training crops a part of the area and aspect ratio that ``area`` (smallest and largest share) and a factor of 4/3
    allow, and scales it to ``size`` x ``size`` (GoogLeNet, section 6), mirrors it with probability ``flip`` and applies
    ``augment`` as in ``Transforms``. Evaluation takes the middle, 7/8 of the short edge, as is usual since AlexNet. The
    other arguments are those of ``BaseDataModule``.

    Raises ConfigError for invalid values, DataError for a folder without classes or images.
    """

    task = "classification"
    default_format = "ImageFolders"
    min_batch_size = 2  # batch norm of a map of one cell needs more than one value

    def __init__(
        self,
        root: str,
        split: SplitConfig | None = None,
        size: int = 224,
        area: tuple[float, float] = (0.08, 1.0),
        flip: float = 0.5,
        augment: dict[str, dict[str, Any]] | None = None,
        batch_size: int = 32,
        num_workers: int = 2,
    ) -> None:
        super().__init__(root, AUTO, split, batch_size, num_workers)
        if size < 1:
            raise ConfigError(f"data: size {size} must be at least 1")
        if not 0 < area[0] <= area[1] <= 1 or not 0 <= flip <= 1:
            raise ConfigError(f"data: area {list(area)} must be above 0 and rise to at most 1, flip {flip} within 0..1")
        self.size, self.area, self.flip = size, area, flip
        self.augment = compose(augment) if augment else None

    def _split_indices(self, whole: ClassificationIndex, split: Split) -> NDArray[np.int64]:
        """Draw one side of a random split of each class. Raises DataError for a class of one image."""
        fraction = self.split.get("val_fraction", 0.2)
        members = [np.flatnonzero(whole.labels == label) for label in range(len(whole.classes))]
        for name, indices in zip(whole.classes, members, strict=True):
            if len(indices) < 2:
                raise DataError(f"{whole.root / name}: one image cannot be shared between training and validation")
        seed = self.split.get("seed", 0)
        return np.concatenate([indices[split_indices(len(indices), fraction, split, seed)] for indices in members])

    def train_transform(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Crop, scale, flip and augment an RGB image (h, w, 3) by ``seed``, to (size, size, 3)."""
        generator = np.random.default_rng(seed)
        image = _scale(_random_part(image, self.area, generator), self.size)
        if generator.random() < self.flip:
            image = image[:, ::-1]
        if self.augment is not None:
            picture = ImageSample(np.ascontiguousarray(image), NO_BOXES, np.zeros(0, np.int64))
            image = augment(picture, self.augment, int(generator.integers(2**32))).image
        return image

    @property
    def preprocessing(self) -> CenterCropConfig:
        """The crop of images for evaluation."""
        return CenterCropConfig(self.size)

    @property
    def pad_shapes(self) -> list[tuple[int, int]]:
        """Height and width of every batch."""
        return [(self.size, self.size)]

    def bucket_ids(self, split: Split) -> NDArray[np.int64]:
        """Return one bucket for all images (I,), which are scaled to the same size."""
        return np.zeros(len(self.annotations(split)), dtype=np.int64)

    def dataset(self, split: Split) -> ClassificationDataset:
        """Return the samples of a split."""
        return ClassificationDataset(self, self.annotations(split), training=split == "train")


def center_crop(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Crop the central square of an RGB image (h, w, 3), 7/8 of its short edge, and resize it to ``size`` pixels."""
    height, width = image.shape[:2]
    edge = max(round(CENTRE * min(height, width)), 1)
    top, left = (height - edge) // 2, (width - edge) // 2
    return _scale(image[top : top + edge, left : left + edge], size)


def _random_part(image: NDArray[np.uint8], area: tuple[float, float], generator: Any) -> NDArray[np.uint8]:
    """A part of random area and aspect ratio; the largest that is square where none of ten fits."""
    height, width = image.shape[:2]
    for _ in range(10):
        pixels = height * width * generator.uniform(*area)
        ratio = np.exp(generator.uniform(-np.log(ASPECT), np.log(ASPECT)))
        h, w = (max(round(float(edge)), 1) for edge in (np.sqrt(pixels / ratio), np.sqrt(pixels * ratio)))
        if h <= height and w <= width:
            break
    else:
        h = w = min(height, width)
    top, left = generator.integers(0, (height - h, width - w), endpoint=True).tolist()
    return image[top : top + h, left : left + w]


def _scale(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Scale to a square; means of pixels where it shrinks, which leave no patterns that were not there."""
    method = cv2.INTER_AREA if min(image.shape[:2]) > size else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=method).astype(np.uint8, copy=False)
