"""What data sets for semantic segmentation share: the dataset of samples, the loaders, the class names."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import Dataset

from detseg.data.base import Loader, rank
from detseg.data.batching import STRIDE, Buckets, collate
from detseg.data.coco_format import Split
from detseg.data.images import read_image
from detseg.data.label_maps import LabelMaps
from detseg.data.samplers import EvaluationSampler, Key, TrainingSampler
from detseg.data.segmentation_transforms import SegmentationTransforms
from detseg.errors import ConfigError, DataError
from detseg.recipe import Recipe
from detseg.structures import VOID, Batch, Sample

log = logging.getLogger(__name__)


class SegmentationDataset(Dataset[Sample]):
    """Images, each with the class of every pixel."""

    def __init__(self, annotations: LabelMaps, transforms: SegmentationTransforms, training: bool) -> None:
        self.annotations, self.transforms, self.training = annotations, transforms, training

    def __len__(self) -> int:
        """Count the images."""
        return len(self.annotations)

    def __getitem__(self, key: int | Key) -> Sample:
        """Read the image of a row; a training sampler adds the seed of its random changes, else the row serves."""
        row, seed = key if isinstance(key, tuple) else (key, key)
        labels = self.annotations.labels(row)
        height, width = labels.shape
        image = read_image(self.annotations.path(row), (height, width))
        if self.training:
            image, labels = self.transforms.train(image, labels, seed)
        return Sample(
            image=torch.from_numpy(image).permute(2, 0, 1),
            boxes=torch.zeros(0, 4),
            labels=torch.zeros(0, dtype=torch.int64),
            row=row,
            original_size=(height, width),
            semantic=torch.from_numpy(np.ascontiguousarray(labels)),
        )


def collate_semantic(samples: Sequence[Sample], buckets: Buckets = ()) -> Batch:
    """Collate as ``collate`` does, with ``semantic`` (B, H, W): padding is void, and there are no objects."""
    batch = collate(samples, buckets)
    semantic = torch.full((len(samples), *batch.images.shape[2:]), VOID)
    for i, sample in enumerate(samples):
        assert sample.semantic is not None
        h, w = sample.semantic.shape
        semantic[i, :h, :w] = sample.semantic
    return batch._replace(semantic=semantic)


class SegmentationData(LightningDataModule, Recipe):
    """A data set for training and evaluation; subclasses say how to ``read`` its labels.

    ``batch_size`` is that of one device, ``workers`` the processes that read images for it. Nothing is read before it
    is needed. Images are evaluated at their full size, in batches whose images need the same padding: so no prediction
    depends on the batch size.
    """

    def __init__(self, transforms: SegmentationTransforms | None = None, batch_size: int = 4, workers: int = 2) -> None:
        super().__init__()
        if batch_size < 1 or workers < 0:
            raise ConfigError(f"data: batch_size {batch_size} must be at least 1, workers {workers} at least 0")
        self.transforms = transforms or SegmentationTransforms()
        self.batch_size, self.workers = batch_size, workers
        self._classes: tuple[str, ...] | None = None
        self._unmatched: dict[Split, LabelMaps] = {}  # as read: other classes may be asked for later
        self._annotations: dict[Split, LabelMaps] = {}

    def read(self, split: Split) -> LabelMaps:
        """Find the images and labels of a split, with the classes that they name. Called once for each."""
        raise NotImplementedError

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their labels: those of the training data, unless others were set."""
        return self._classes or self.train_annotations.classes

    @property
    def num_classes(self) -> int:
        """Count the classes."""
        return len(self.classes)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The data set's own numbers of the classes."""
        return self.train_annotations.category_ids

    @property
    def train_annotations(self) -> LabelMaps:
        """The labels of the training images."""
        return self._get("train")

    @property
    def val_annotations(self) -> LabelMaps:
        """The labels of the validation images, in the classes of the training images."""
        return self._get("val")

    def path(self, split: Split, row: int) -> Path:
        """The file of an image."""
        return self._get(split).path(row)

    def use_classes(self, classes: Sequence[str]) -> None:
        """Number the labels as a trained model does, by names. Pixels of other classes become void, which is logged.

        From then on DataError is raised where the data has none of these classes.
        """
        self._classes = tuple(classes)
        self._annotations = {split: self._match(found) for split, found in self._unmatched.items()}

    def eval_transform(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """Return an RGB image (h, w, 3) as evaluation takes it, which is as it is, with its height and width."""
        return image, (image.shape[0], image.shape[1])

    @property
    def buckets(self) -> list[tuple[int, int]]:
        """Heights and widths that batches are padded to: none, since evaluation pads to multiples of 32."""
        return []

    def setup(self, stage: str) -> None:
        """Tell Lightning, which calls this, to leave the samplers alone."""
        if self.trainer is not None:
            # It has no public way to ask for it here, and would wrap them so that evaluation repeats images.
            self.trainer._accelerator_connector.use_distributed_sampler = False

    def train_dataloader(self) -> Loader:
        """Shuffled batches of changed images, of one size if they are cropped. The seed is that of ``seed_everything``.

        Lightning's ``overfit_batches`` needs the same ones in each epoch, and gets them.
        """
        annotations, crop = self.train_annotations, self.transforms.crop
        groups = _groups(annotations) if crop is None else np.zeros(len(annotations), dtype=np.int64)
        edge = None if crop is None else -(-crop // STRIDE) * STRIDE
        sampler: TrainingSampler | EvaluationSampler
        if self.trainer is not None and self.trainer.overfit_batches:  # type: ignore[attr-defined]
            sampler = EvaluationSampler(groups, self.batch_size, *rank())
        else:
            seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
            sampler = TrainingSampler(groups, self.batch_size, seed, *rank())
        return self._loader("train", sampler, [] if edge is None else [(edge, edge)])

    def val_dataloader(self) -> Loader:
        """Every image once over all ranks. A rank that runs out of images before others gets empty batches."""
        sampler = EvaluationSampler(_groups(self.val_annotations), self.batch_size, *rank())
        return self._loader("val", sampler, self.buckets)

    def _loader(self, split: Split, sampler: TrainingSampler | EvaluationSampler, buckets: Buckets) -> Loader:
        return Loader(
            SegmentationDataset(self._get(split), self.transforms, training=split == "train"),
            batch_sampler=sampler,
            num_workers=self.workers,
            collate_fn=partial(collate_semantic, buckets=buckets),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.workers > 0,
            generator=torch.Generator(),  # without one, each pass would draw a number of the training's
        )

    def _get(self, split: Split) -> LabelMaps:
        if split not in self._annotations:
            found = self.read(split)
            log.info("%s: %s: %s", split, found.root, found.describe())
            if not len(found):
                raise DataError(f"{found.root}: the {split} split has no images")
            self._unmatched[split] = found
            if split == "val" or self._classes:
                found = self._match(found)
            self._annotations[split] = found
        return self._annotations[split]

    def _match(self, annotations: LabelMaps) -> LabelMaps:
        if not set(self.classes) & set(annotations.classes):
            raise DataError(
                f"{annotations.root}: none of its classes ({', '.join(annotations.classes)}) is one of those "
                f"to tell apart ({', '.join(self.classes)}); the names must agree"
            )
        return annotations.relabel(self.classes)


def _groups(annotations: LabelMaps) -> NDArray[np.int64]:
    """A number for each image, the same for those that are padded to the same size."""
    padded = -(-annotations.sizes // STRIDE)
    groups: NDArray[np.int64] = np.unique(padded, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return groups
