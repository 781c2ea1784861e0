"""Data module of semantic segmentation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from detseg.data.annotations.images import read_image
from detseg.data.annotations.semantic import SemanticAnnotations
from detseg.data.formats.base import DatasetFormat
from detseg.data.formats.format_detection import AUTO
from detseg.data.loading.bad_samples import BadSamples
from detseg.data.loading.collate import PadShapes, bucket_ids, collate, to_sample
from detseg.data.loading.samplers import Key
from detseg.data.modules.base import BaseDataModule, SplitConfig
from detseg.data.splits import Split
from detseg.data.transforms import ImageSample, RandomHorizontalFlip, RandomScaleCrop, Transform
from detseg.data.transforms.resizing import preprocess
from detseg.data.transforms.transform import apply_transforms, preprocessing_of
from detseg.structures import IGNORE_INDEX, Batch, Sample


class SegmentationDataset(Dataset[Sample]):
    """Images with the class of every pixel."""

    def __init__(self, annotations: SemanticAnnotations, transforms: Sequence[Transform], training: bool) -> None:
        self.annotations, self.transforms, self.training = annotations, transforms, training

    def __len__(self) -> int:
        """Count the images."""
        return len(self.annotations)

    def __getitem__(self, key: int | Key) -> Sample:
        """Read an image by index; a training sampler adds the seed of its augmentation, else the index is the seed."""
        row, seed = key if isinstance(key, tuple) else (key, key)
        semantic = self.annotations.labels(row)
        height, width = semantic.shape
        image = read_image(self.annotations.path(row), (height, width), self.annotations.source(row))
        sample = ImageSample(image, semantic=semantic)
        if self.training:
            sample = apply_transforms(self.transforms, sample, seed)
        else:
            sample = preprocess(sample, preprocessing_of(self.transforms))
        return to_sample(sample, row, (height, width))


def collate_semantic(samples: Sequence[Sample], pad_shapes: PadShapes = ()) -> Batch:
    """Collate as ``collate`` does, with ``semantic`` (B, H, W), whose padding is void, and no objects."""
    batch = collate(samples, pad_shapes)
    semantic = torch.full((len(samples), *batch.images.shape[2:]), IGNORE_INDEX)
    for i, sample in enumerate(samples):
        assert sample.semantic is not None
        h, w = sample.semantic.shape
        semantic[i, :h, :w] = sample.semantic
    return batch._replace(semantic=semantic)


class SegmentationDataModule(BaseDataModule[SemanticAnnotations]):
    """A data set with a class for every pixel.

    Images are evaluated at their full size, in batches of images with the same padding, so that no prediction depends
    on the batch size. Pixels of classes that are left out become void. The arguments are those of ``BaseDataModule``.
    """

    task = "semantic_segmentation"

    collate = staticmethod(collate_semantic)

    def __init__(
        self,
        root: str,
        format: str | DatasetFormat = AUTO,
        split: SplitConfig | None = None,
        transforms: list[Transform] | None = None,
        batch_size: int = 4,
        num_workers: int = 2,
        bad_samples: BadSamples = "error",
    ) -> None:
        super().__init__(root, format, split, transforms, batch_size, num_workers, bad_samples)

    @staticmethod
    def default_transforms() -> list[Transform]:
        """Return a random scale and crop, flipped at random."""
        return [RandomScaleCrop(), RandomHorizontalFlip()]

    def bucket_ids(self, split: Split) -> NDArray[np.int64]:
        """Return the bucket of each image (I,): the same for images that are padded to the same size."""
        return bucket_ids(self.annotations(split).sizes, self.preprocessing, cropped=self.is_cropped(split))

    def dataset(self, split: Split) -> SegmentationDataset:
        """Return the samples of a split."""
        return SegmentationDataset(self.annotations(split), self.transforms, training=split == "train")
