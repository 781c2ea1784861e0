"""Base of all data modules: source, splits, loaders, samplers and class names."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypedDict, TypeVar, cast

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from detseg.configurable import Configurable
from detseg.data.annotations.issues import FailFastSummary, log_issues
from detseg.data.annotations.masks import MaskUse
from detseg.data.annotations.table import ImageTable
from detseg.data.formats.base import WHOLE, DatasetFormat, DatasetSource, Task
from detseg.data.formats.format_detection import AUTO, find_formats, open_source
from detseg.data.loading.collate import PadShapes, bucket_ids, collate, eval_pad_shapes
from detseg.data.loading.dataset import BadSamples, SampleDataset, SkipBadSamples
from detseg.data.loading.samplers import EvaluationSampler, TrainingSampler, global_seed
from detseg.data.splits import Split, train_val_split
from detseg.data.transforms.transform import Transform, crop_size_of, preprocessing_of
from detseg.errors import WORKER_DIED, ConfigError, DataError, DetsegError, worker_died
from detseg.preprocessing import CenterCropConfig, Preprocessing
from detseg.structures import STRIDE, Batch, Sample

log = logging.getLogger(__name__)

EvaluationSplit = Literal["train", "val", "test", "all"]
L = TypeVar("L", bound=ImageTable)


class Loader(DataLoader[Sample]):
    """DataLoader that re-raises a DetsegError of its workers without the traceback around it."""

    # Lightning asks for these methods before it resumes within an epoch. The sampler knows its place without them.
    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the order is drawn again from the seed."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore nothing."""

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


class SplitConfig(TypedDict, total=False):
    """Splits of a data set: their names in it, or the random split of a data set that has none."""

    train: str  # name of the training split: a list, a folder or an annotation file, depending on the format
    val: str  # name of the validation split
    val_fraction: float  # share of the images for validation; 0.2 by default
    seed: int  # of the random split; 0 by default


class BaseDataModule(LightningDataModule, Configurable, Generic[L]):
    """A data set for training and evaluation; subclasses define its ``task`` and what a sample is.

    ``root`` is its folder, ``format`` the name of one of ``FORMATS`` or a ``DatasetFormat``, by default detected.
    ``transforms`` change training images in order; for evaluation see ``Transform``. ``split`` names its splits; of a
    data set that is not split, ``val_fraction`` of the images, drawn by ``seed``, are for validation, and images that
    are the same byte by byte stay on one side. ``batch_size`` and ``num_workers`` are those of one device; by default,
    the batch size is that of the task, and "auto" is the largest that a GPU holds in training. An image that cannot be
    used is an error, or with ``bad_samples`` "skip" left out of training, as long as there are few. Nothing is read
    before it is needed: a data module from a checkpoint gives ``preprocessing`` and ``pad_shapes`` without any data.
    """

    collate = staticmethod(collate)
    task: ClassVar[Task]
    dataset_cls: ClassVar[type[SampleDataset[Any]]]
    default_format: ClassVar[str] = AUTO
    default_batch_size: ClassVar[int] = 2
    min_batch_size: ClassVar[int] = 1  # images of a rank in a training step
    masks: MaskUse = "none"

    def __init__(
        self,
        root: str,
        format: str | DatasetFormat = AUTO,
        split: SplitConfig | None = None,
        transforms: list[Transform] | None = None,
        batch_size: int | Literal["auto"] | None = None,
        num_workers: int = 2,
        bad_samples: BadSamples = "error",
    ) -> None:
        super().__init__()
        self.tries_batch_sizes = batch_size == "auto"  # before a training
        self.batch_size = self.default_batch_size if batch_size is None or batch_size == "auto" else batch_size
        self.num_workers, self.bad_samples = num_workers, bad_samples
        if self.batch_size < 1 or num_workers < 0:
            raise ConfigError(f"data: batch_size {batch_size} must be at least 1, num_workers {num_workers} at least 0")
        self.root, self.split = Path(root), split or {}
        self.format = self.default_format if format == AUTO else format
        find_formats(self.format, self.task)
        self.transforms = self.default_transforms() if transforms is None else transforms
        self.check_transforms()
        self._evaluated: EvaluationSplit | Literal["unsplit"] | None = None
        self._classes: tuple[str, ...] | None = None
        self._unmatched: dict[Split, L] = {}  # as read: other classes may be asked for later
        self._annotations: dict[Split, L] = {}

    @staticmethod
    def default_transforms() -> list[Transform]:
        """Return the transforms of training if none are set."""
        raise NotImplementedError

    def check_transforms(self) -> None:
        """Raise ConfigError for transforms that do not suit the task or the other settings."""

    @cached_property
    def source(self) -> DatasetSource:
        """The data set in ``root``. Raises DataError if there is none."""
        names = {name: self.split[name] for name in ("train", "val") if self.split.get(name)}
        source = open_source(self.root, self.format, self.task, names, self.masks)
        log_issues(source.tree.root, source.issues)
        return source

    def evaluate_on(self, split: EvaluationSplit | None = None) -> None:
        """Take another split, or all labelled images, for validation: for an evaluation of data not trained on.

        By default, take all images of data that are not split, of which a training would hold some out.
        """
        self._evaluated = split or "unsplit"

    def read(self, split: Split) -> L:
        """Read the labels of a split with their own classes; each split is read once. Raises DataError."""
        source = self.source
        chosen = self._evaluated if split == "val" else None
        if chosen in ("test", WHOLE) or (chosen == "unsplit" and WHOLE in source.splits):
            return self._read_evaluated(source, "test" if chosen == "test" else WHOLE)
        split = "train" if chosen == "train" else split
        if WHOLE in source.splits:
            return self._whole.subset(self._split_indices(self._whole, split))
        part = "test" if split == "val" and "val" not in source.splits else split
        if part not in source.splits:
            raise DataError(source.format.missing_split(source, split))
        return cast("L", source.read(part, self.masks))

    def _read_evaluated(self, source: DatasetSource, split: str) -> L:
        """Read the test split, or all labelled images. Raises DataError for a split that is not there."""
        if split == WHOLE:
            if WHOLE in source.splits:
                return self._whole
            return self.concat([cast("L", source.read(part, self.masks)) for part in source.splits])
        if split not in source.splits:
            known = ", ".join(source.splits)
            raise DataError(f"{source.tree.root}: it has no split {split}, but {known}; choose one with `split`")
        return cast("L", source.read(split, self.masks))

    def concat(self, tables: list[L]) -> L:
        """Join the tables of several splits. Raises ConfigError where a data set has no such tables."""
        raise ConfigError(f"split: {type(self).__name__} cannot join splits; choose train, val or test")

    def count_images(self) -> int:
        """Count the labelled images of all splits that can be read."""
        count = 0
        with suppress(DataError):
            for part in self.source.splits:
                count += len(self.source.format.read(self.source, part, "none", FailFastSummary()))
        return count

    @cached_property
    def _whole(self) -> L:
        """All images of a data set that is not split."""
        return cast("L", self.source.read(WHOLE, self.masks))

    def _split_indices(self, whole: L, split: Split) -> NDArray[np.int64]:
        """Draw one side of a random split."""
        return train_val_split(whole, self.split.get("val_fraction", 0.2), self.split.get("seed", 0), split)

    def dataset(self, split: Split) -> SampleDataset[L]:
        """Return the samples of a split, by image index; in training by a sampler's key."""
        return self.dataset_cls(self.annotations(split), self.transforms, split == "train")

    def bucket_ids(self, split: Split) -> NDArray[np.int64]:
        """Return the bucket of each image (I,): the same for images that are padded to the same size."""
        table = self.annotations(split)
        cropped = split == "train" and crop_size_of(self.transforms) is not None
        if cropped or isinstance(self.preprocessing, CenterCropConfig):
            return np.zeros(len(table), dtype=np.int64)
        return bucket_ids(table.sizes, self.preprocessing)  # type: ignore[attr-defined]

    def repeat_factors(self, split: Split) -> NDArray[np.float64] | None:
        """Return the mean number of times that each image (I,) occurs in a training epoch; None for once each."""
        return None

    @property
    def preprocessing(self) -> Preprocessing:
        """The resizing of images for evaluation; None if they keep their size."""
        return preprocessing_of(self.transforms)

    @property
    def pad_shapes(self) -> PadShapes:
        """Heights and widths that batches are padded to; none for multiples of 32."""
        return eval_pad_shapes(self.preprocessing)

    @property
    def train_pad_shapes(self) -> PadShapes:
        """Pad shapes of training: the one of its crops, if all images are cropped."""
        if crop_size := crop_size_of(self.transforms):
            edge = -(-crop_size // STRIDE) * STRIDE
            return [(edge, edge)]
        return self.pad_shapes

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the labels: those of the training data, unless others were set."""
        return self._classes or self.train_annotations.classes

    @property
    def num_classes(self) -> int:
        """Count the classes."""
        return len(self.classes)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Numbers of the classes in the data set."""
        return self.train_annotations.category_ids

    @property
    def train_annotations(self) -> L:
        """Labels of the training images."""
        return self.annotations("train")

    @property
    def val_annotations(self) -> L:
        """Labels of the validation images, in the classes of the training images."""
        return self.annotations("val")

    def annotations(self, split: Split) -> L:
        """Return the labels of a split. Raises DataError for no images, and for none of the classes."""
        if split not in self._annotations:
            table = self.read(split)
            log.info("%s: %s: %s", split, table.root, table.describe())
            if not len(table):
                raise DataError(f"{table.root}: the {split} split has no images")
            self._unmatched[split] = table
            if split == "val" or self._classes:
                table = self._match(table)
            self._annotations[split] = table
        return self._annotations[split]

    def path(self, split: Split, index: int) -> Path:
        """Path of an image."""
        return self.annotations(split).path(index)

    def use_classes(self, classes: Sequence[str]) -> None:
        """Number the labels as a trained model does, by names. Labels of other classes are left out and logged.

        Afterwards, data without any of these classes raises DataError.
        """
        self._classes = tuple(classes)
        self._annotations = {split: self._match(table) for split, table in self._unmatched.items()}

    def setup(self, stage: str) -> None:
        """Keep Lightning, which calls this, from replacing the samplers."""
        if self.trainer is not None:
            # There is no public way to ask for it here; a wrapped sampler would repeat images in evaluation.
            self.trainer._accelerator_connector.use_distributed_sampler = False

    def train_dataloader(self) -> Loader:
        """Build the loader of shuffled batches of augmented images, by the seed of ``seed_everything``.

        Lightning's ``overfit_batches`` needs the same batches in each epoch, and gets them.
        """
        bucket_ids = self.bucket_ids("train")
        sampler: TrainingSampler | EvaluationSampler
        if self.trainer is not None and self.trainer.overfit_batches:  # type: ignore[attr-defined]
            sampler = EvaluationSampler(bucket_ids, self.batch_size, *_rank())
        else:
            factors = self.repeat_factors("train")
            sampler = TrainingSampler(
                bucket_ids,
                self.batch_size,
                global_seed(),
                *_rank(),
                self.min_batch_size,
                factors,
                self._finished_batches,
            )
        return self._loader("train", sampler, self.train_pad_shapes)

    def _finished_batches(self) -> int:
        """Count the batches of the epoch that are trained on: 0, but in the epoch in which a training is resumed."""
        if self.trainer is None or not self.trainer.training:
            return 0
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def val_dataloader(self) -> Loader:
        """Build the loader of every image once over all ranks; a rank that runs out of images gets empty batches."""
        sampler = EvaluationSampler(self.bucket_ids("val"), self.batch_size, *_rank())
        return self._loader("val", sampler, self.pad_shapes)

    def _loader(self, split: Split, sampler: TrainingSampler | EvaluationSampler, pad_shapes: PadShapes) -> Loader:
        if split == "val" or self.bad_samples == "error":
            self.annotations(split).require_images()
        dataset = self.dataset(split)
        return Loader(
            SkipBadSamples(dataset) if split == "train" and self.bad_samples == "skip" else dataset,
            batch_sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=partial(self.collate, pad_shapes=pad_shapes),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator(),  # else each pass would draw a number of the global generator
        )

    def _match(self, annotations: L) -> L:
        if not set(self.classes) & set(annotations.classes):
            raise DataError(
                f"{annotations.root}: none of its classes ({', '.join(annotations.classes)}) is among the classes "
                f"to predict ({', '.join(self.classes)}); the names must agree"
            )
        return annotations.relabel(self.classes)


def _rank() -> tuple[int, int]:
    """Return the rank and the number of ranks."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
