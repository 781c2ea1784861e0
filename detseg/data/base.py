"""What all data modules share: the dataset of samples, the loaders, the class names."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from detseg.data.annotations import Annotations
from detseg.data.batching import buckets, collate, smallest
from detseg.data.coco_format import Split
from detseg.data.images import read_image
from detseg.data.samplers import EvaluationSampler, Key, TrainingSampler
from detseg.data.transforms import Picture, Transforms, fit
from detseg.errors import ConfigError, DataError, DetsegError
from detseg.recipe import Recipe
from detseg.structures import Batch, Sample

log = logging.getLogger(__name__)


class DetectionDataset(Dataset[Sample]):
    """Images with the objects to learn from: neither crowds nor difficult ones."""

    def __init__(self, annotations: Annotations, transforms: Transforms, training: bool) -> None:
        self.annotations, self.transforms, self.training = annotations, transforms, training

    def __len__(self) -> int:
        """Count the images."""
        return len(self.annotations)

    def __getitem__(self, key: int | Key) -> Sample:
        """Read the image of a row; a training sampler adds the seed of its random changes, else the row serves."""
        row, seed = key if isinstance(key, tuple) else (key, key)
        objects = self.annotations.objects(row)
        learnt = ~(self.annotations.crowd[objects] | self.annotations.difficult[objects])
        height, width = self.annotations.sizes[row].tolist()
        boxes = self.annotations.boxes[objects][learnt].clip(0, (width, height, width, height))
        picture = Picture(
            image=read_image(self.annotations.path(row), (height, width)),
            boxes=boxes.astype(np.float32),
            labels=self.annotations.labels[objects][learnt],
        )
        picture = self.transforms.train(picture, seed) if self.training else self.transforms.evaluate(picture)
        return Sample(
            image=torch.from_numpy(picture.image).permute(2, 0, 1),
            boxes=torch.from_numpy(picture.boxes),
            labels=torch.from_numpy(picture.labels),
            row=row,
            original_size=(height, width),
        )


class Loader(DataLoader[Sample]):
    """A DataLoader that gives a DetsegError of its workers to the user as it is, without the traceback around it."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except DetsegError as error:
            kind = type(error)
            raise kind(str(error).rpartition(f"{kind.__name__}: ")[2].strip()) from None


class DetectionData(LightningDataModule, Recipe):
    """A data set for training and evaluation; subclasses say how to ``read`` its annotations.

    ``batch_size`` is that of one device, ``workers`` the processes that read images for it. Nothing is read before it
    is needed: one that was built from a checkpoint gives ``eval_transform`` and ``buckets`` without any data.
    """

    def __init__(self, transforms: Transforms | None = None, batch_size: int = 2, workers: int = 2) -> None:
        super().__init__()
        if batch_size < 1 or workers < 0:
            raise ConfigError(f"data: batch_size {batch_size} must be at least 1, workers {workers} at least 0")
        self.transforms = transforms or Transforms()
        self.batch_size, self.workers = batch_size, workers
        self._classes: tuple[str, ...] | None = None
        self._unmatched: dict[Split, Annotations] = {}  # as read: other classes may be asked for later
        self._annotations: dict[Split, Annotations] = {}

    def read(self, split: Split) -> Annotations:
        """Read the annotations of a split, with the classes that they name. Called once for each."""
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
    def train_annotations(self) -> Annotations:
        """What the training images show."""
        return self._get("train")

    @property
    def val_annotations(self) -> Annotations:
        """What the validation images show, in the classes of the training images."""
        return self._get("val")

    def use_classes(self, classes: Sequence[str]) -> None:
        """Number the labels as a trained model does, by names. Objects of other classes are left out and logged.

        From then on DataError is raised where the data has none of these classes.
        """
        self._classes = tuple(classes)
        self._annotations = {split: self._match(found) for split, found in self._unmatched.items()}

    def eval_transform(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """Resize an RGB image (h, w, 3) as for evaluation; return it with its new height and width."""
        resized = self.transforms.evaluate(Picture(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))).image
        return resized, (resized.shape[0], resized.shape[1])

    @property
    def buckets(self) -> list[tuple[int, int]]:
        """Heights and widths that batches are padded to."""
        return buckets(max(self.transforms.sizes), self.transforms.max_size)

    def setup(self, stage: str) -> None:
        """Tell Lightning, which calls this, to leave the samplers alone."""
        if self.trainer is not None:
            # It has no public way to ask for it here, and would wrap them so that evaluation repeats images.
            self.trainer._accelerator_connector.use_distributed_sampler = False

    def train_dataloader(self) -> Loader:
        """Shuffled batches of changed images. The seed is that of ``seed_everything``.

        Lightning's ``overfit_batches`` needs the same ones in each epoch, and gets them.
        """
        groups = self._groups(self.train_annotations)
        sampler: TrainingSampler | EvaluationSampler
        if self.trainer is not None and self.trainer.overfit_batches:  # type: ignore[attr-defined]
            sampler = EvaluationSampler(groups, self.batch_size, *rank())
        else:
            seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
            sampler = TrainingSampler(groups, self.batch_size, seed, *rank())
        return self._loader(DetectionDataset(self.train_annotations, self.transforms, training=True), sampler)

    def val_dataloader(self) -> Loader:
        """Every image once over all ranks. A rank that runs out of images before others gets empty batches."""
        sampler = EvaluationSampler(self._groups(self.val_annotations), self.batch_size, *rank())
        return self._loader(DetectionDataset(self.val_annotations, self.transforms, training=False), sampler)

    def _loader(self, dataset: DetectionDataset, sampler: TrainingSampler | EvaluationSampler) -> Loader:
        return Loader(
            dataset,
            batch_sampler=sampler,
            num_workers=self.workers,
            collate_fn=partial(collate, buckets=self.buckets),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.workers > 0,
            generator=torch.Generator(),  # without one, each pass would draw a number of the training's
        )

    def _groups(self, annotations: Annotations) -> NDArray[np.int64]:
        """The bucket of each image."""
        sizes = fit(annotations.sizes, max(self.transforms.sizes), self.transforms.max_size)
        return smallest(sizes, self.buckets)

    def _get(self, split: Split) -> Annotations:
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

    def _match(self, annotations: Annotations) -> Annotations:
        if not set(self.classes) & set(annotations.classes):
            raise DataError(
                f"{annotations.root}: none of its classes ({', '.join(annotations.classes)}) is one of those "
                f"to find ({', '.join(self.classes)}); the names must agree"
            )
        return annotations.relabel(self.classes)


def split_rows(count: int, fraction: float, split: Split) -> NDArray[np.int64]:
    """Share out images that no one has split: always the same ones, at least one (of two or more) to each side.

    Raises ConfigError for a ``fraction`` for validation that is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"data.val_fraction: {fraction} must be above 0 and below 1, such as 0.2")
    order = np.random.default_rng(0).permutation(count)
    held_out = min(max(round(count * fraction), 1), count - 1)
    return np.sort(order[:held_out] if split == "val" else order[held_out:])


def rank() -> tuple[int, int]:
    """Number of this process among those that train together, and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
