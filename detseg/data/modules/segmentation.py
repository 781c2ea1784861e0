"""Data module of semantic segmentation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from detseg.data.annotations.semantic import SemanticAnnotations, concat_semantic
from detseg.data.loading.collate import PadShapes, collate
from detseg.data.loading.dataset import SampleDataset
from detseg.data.modules.base import BaseDataModule
from detseg.data.transforms import ImageSample, RandomHorizontalFlip, RandomScaleCrop, Transform
from detseg.structures import IGNORE_INDEX, Batch, Sample


class SegmentationDataset(SampleDataset[SemanticAnnotations]):
    """Images with the class of every pixel."""

    def read(self, row: int) -> ImageSample:
        """Read an image with its semantic mask."""
        semantic = self.annotations.labels(row)
        image = self.annotations.read_image(row, semantic.shape, self.annotations.source(row))
        return ImageSample(image, semantic=semantic)


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
    default_batch_size = 4
    dataset_cls = SegmentationDataset
    collate = staticmethod(collate_semantic)

    def concat(self, tables: list[SemanticAnnotations]) -> SemanticAnnotations:
        """Join the tables of several splits."""
        return concat_semantic(tables)

    @staticmethod
    def default_transforms() -> list[Transform]:
        """Return a random scale and crop, flipped at random."""
        return [RandomScaleCrop(), RandomHorizontalFlip()]
