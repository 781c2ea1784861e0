"""What all data modules share: the loaders, the samplers, the class names."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from detseg.configurable import Configurable
from detseg.data.loading.bad_samples import BadSamples, SkipBadSamples
from detseg.data.loading.collate import PadShapes, collate
from detseg.data.loading.samplers import EvaluationSampler, TrainingSampler
from detseg.data.splits import Split
from detseg.errors import ConfigError, DataError, DetsegError
from detseg.preprocessing import Preprocessing
from detseg.structures import Batch, Sample

log = logging.getLogger(__name__)


class AnnotationTable(Protocol):
    """The images of a split, and what is known of each."""

    @property
    def root(self) -> Path:
        """The folder of the images."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the labels."""

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The data set's own numbers of the classes."""

    def __len__(self) -> int:
        """Count the images."""

    def path(self, image: int) -> Path:
        """Where the file of one image lies."""

    def relabel(self, classes: Sequence[str]) -> Self:
        """Renumber the labels to ``classes``, matching by name."""

    def describe(self) -> str:
        """Say in one line what there is."""


L = TypeVar("L", bound=AnnotationTable)


def worker_died(error: RuntimeError) -> bool:
    """Whether it says that a process of a DataLoader has ended. It can come at any moment, wherever the program is."""
    return str(error).startswith("DataLoader worker (pid")


WORKER_DIED = (
    "a loader process was killed, probably because the memory was full: set fewer --data.workers, "
    "a smaller --data.batch_size, or smaller images; with --data.workers 0 no other process is needed"
)


class Loader(DataLoader[Sample]):
    """A DataLoader that gives a DetsegError of its workers to the user as it is, without the traceback around it."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except DetsegError as error:
            kind = type(error)
            raise kind(str(error).rpartition(f"{kind.__name__}: ")[2].strip()) from None
        except RuntimeError as error:
            if worker_died(error):
                raise DetsegError(WORKER_DIED) from error
            raise


class BaseDataModule(LightningDataModule, Configurable, Generic[L]):
    """A data set for training and evaluation; subclasses say how to ``read`` its labels, and what a sample is.

    ``batch_size`` is that of one device, ``workers`` the processes that read images for it. An image that cannot be
    used is an error, or with ``bad_samples`` "skip" left out of the training, as long as there are few. Nothing is read
    before it is needed: one built from a checkpoint gives ``preprocessing`` and ``pad_shapes`` without any data.
    """

    collate = staticmethod(collate)
    min_batch_size = 1  # images of a rank in a training step
    purpose = "to tell apart"  # what the classes are for

    def __init__(self, batch_size: int, workers: int, bad_samples: BadSamples = "error") -> None:
        super().__init__()
        if batch_size < 1 or workers < 0:
            raise ConfigError(f"data: batch_size {batch_size} must be at least 1, workers {workers} at least 0")
        self.batch_size, self.workers, self.bad_samples = batch_size, workers, bad_samples
        self._classes: tuple[str, ...] | None = None
        self._unmatched: dict[Split, L] = {}  # as read: other classes may be asked for later
        self._annotations: dict[Split, L] = {}

    def read(self, split: Split) -> L:
        """Read the labels of a split, with the classes that they name. Called once for each."""
        raise NotImplementedError

    def dataset(self, split: Split) -> Dataset[Sample]:
        """The samples of a split, by the row of an image; in training by a sampler's key."""
        raise NotImplementedError

    def bucket_ids(self, split: Split) -> NDArray[np.int64]:
        """A number for each image: only those with the same one come into a batch together."""
        raise NotImplementedError

    def repeat_factors(self, split: Split) -> NDArray[np.float64] | None:
        """How often each image comes in an epoch of training, on average; None where each comes once."""
        return None

    @property
    def preprocessing(self) -> Preprocessing:
        """The resizing of images for evaluation; None if they keep their size."""
        return None

    @property
    def pad_shapes(self) -> PadShapes:
        """Heights and widths that batches are padded to."""
        raise NotImplementedError

    @property
    def train_pad_shapes(self) -> PadShapes:
        """Those of training, where they are others."""
        return self.pad_shapes

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
    def train_annotations(self) -> L:
        """What the training images show."""
        return self.annotations("train")

    @property
    def val_annotations(self) -> L:
        """What the validation images show, in the classes of the training images."""
        return self.annotations("val")

    def annotations(self, split: Split) -> L:
        """What the images of a split show. Raises DataError if there are none, or none of the classes."""
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

    def path(self, split: Split, row: int) -> Path:
        """The file of an image."""
        return self.annotations(split).path(row)

    def use_classes(self, classes: Sequence[str]) -> None:
        """Number the labels as a trained model does, by names. What is of other classes is left out and logged.

        From then on DataError is raised where the data has none of these classes.
        """
        self._classes = tuple(classes)
        self._annotations = {split: self._match(found) for split, found in self._unmatched.items()}

    def setup(self, stage: str) -> None:
        """Tell Lightning, which calls this, to leave the samplers alone."""
        if self.trainer is not None:
            # It has no public way to ask for it here, and would wrap them so that evaluation repeats images.
            self.trainer._accelerator_connector.use_distributed_sampler = False

    def train_dataloader(self) -> Loader:
        """Shuffled batches of changed images. The seed is that of ``seed_everything``.

        Lightning's ``overfit_batches`` needs the same ones in each epoch, and gets them.
        """
        bucket_ids = self.bucket_ids("train")
        sampler: TrainingSampler | EvaluationSampler
        if self.trainer is not None and self.trainer.overfit_batches:  # type: ignore[attr-defined]
            sampler = EvaluationSampler(bucket_ids, self.batch_size, *_rank())
        else:
            seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
            sampler = TrainingSampler(
                bucket_ids, self.batch_size, seed, *_rank(), self.min_batch_size, self.repeat_factors("train")
            )
        return self._loader("train", sampler, self.train_pad_shapes)

    def val_dataloader(self) -> Loader:
        """Every image once over all ranks. A rank that runs out of images before others gets empty batches."""
        sampler = EvaluationSampler(self.bucket_ids("val"), self.batch_size, *_rank())
        return self._loader("val", sampler, self.pad_shapes)

    def _loader(self, split: Split, sampler: TrainingSampler | EvaluationSampler, pad_shapes: PadShapes) -> Loader:
        dataset = self.dataset(split)
        return Loader(
            SkipBadSamples(dataset) if split == "train" and self.bad_samples == "skip" else dataset,
            batch_sampler=sampler,
            num_workers=self.workers,
            collate_fn=partial(self.collate, pad_shapes=pad_shapes),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.workers > 0,
            generator=torch.Generator(),  # without one, each pass would draw a number of the training's
        )

    def _match(self, annotations: L) -> L:
        if not set(self.classes) & set(annotations.classes):
            raise DataError(
                f"{annotations.root}: none of its classes ({', '.join(annotations.classes)}) is one of those "
                f"{self.purpose} ({', '.join(self.classes)}); the names must agree"
            )
        return annotations.relabel(self.classes)


def _rank() -> tuple[int, int]:
    """Number of this process among those that train together, and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
