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
from detseg.data.loading.collate import PadShapes, collate
from detseg.data.loading.samplers import Key
from detseg.data.modules.base import BaseDataModule, SplitConfig
from detseg.data.splits import Split
from detseg.data.transforms.segmentation import SegmentationTransforms
from detseg.structures import IGNORE_INDEX, STRIDE, Batch, Sample


class SegmentationDataset(Dataset[Sample]):
    """Images with the class of every pixel."""

    def __init__(self, annotations: SemanticAnnotations, transforms: SegmentationTransforms, training: bool) -> None:
        self.annotations, self.transforms, self.training = annotations, transforms, training

    def __len__(self) -> int:
        """Count the images."""
        return len(self.annotations)

    def __getitem__(self, key: int | Key) -> Sample:
        """Read an image by index; a training sampler adds the seed of its augmentation, else the index is the seed."""
        row, seed = key if isinstance(key, tuple) else (key, key)
        labels = self.annotations.labels(row)
        height, width = labels.shape
        image = read_image(self.annotations.path(row), (height, width), self.annotations.source(row))
        if self.training:
            image, labels = self.transforms.train(image, labels, seed)
        return Sample(
            image=torch.from_numpy(image).permute(2, 0, 1),
            boxes=torch.zeros(0, 4),
            labels=torch.zeros(0, dtype=torch.int64),
            image_index=row,
            original_size=(height, width),
            semantic=torch.from_numpy(np.ascontiguousarray(labels)),
        )


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
        transforms: SegmentationTransforms | None = None,
        batch_size: int = 4,
        num_workers: int = 2,
        bad_samples: BadSamples = "error",
    ) -> None:
        super().__init__(root, format, split, batch_size, num_workers, bad_samples)
        self.transforms = transforms or SegmentationTransforms()

    @property
    def pad_shapes(self) -> list[tuple[int, int]]:
        """Heights and widths that batches are padded to: none, as evaluation pads to multiples of 32."""
        return []

    @property
    def train_pad_shapes(self) -> list[tuple[int, int]]:
        """Size of the crops, if there are any."""
        edge = -(-(self.transforms.crop or 0) // STRIDE) * STRIDE
        return [(edge, edge)] if edge else []

    def bucket_ids(self, split: Split) -> NDArray[np.int64]:
        """Return the bucket of each image (I,): images in one are padded to the same size."""
        annotations = self.annotations(split)
        if split == "train" and self.transforms.crop:
            return np.zeros(len(annotations), dtype=np.int64)
        padded = -(-annotations.sizes // STRIDE)
        return np.unique(padded, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def dataset(self, split: Split) -> SegmentationDataset:
        """Return the samples of a split."""
        return SegmentationDataset(self.annotations(split), self.transforms, training=split == "train")
