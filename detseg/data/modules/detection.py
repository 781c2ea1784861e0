"""Data module of objects in boxes, with or without masks."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from detseg.configurable import to_config
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.images import read_image
from detseg.data.annotations.masks import MaskUse
from detseg.data.formats.base import DatasetFormat
from detseg.data.formats.format_detection import AUTO
from detseg.data.loading.bad_samples import BadSamples
from detseg.data.loading.collate import bucket_ids, to_sample
from detseg.data.loading.proposals import Proposals, cache_file
from detseg.data.loading.repeat_factors import ImageSampling
from detseg.data.loading.samplers import Key
from detseg.data.modules.base import BaseDataModule, SplitConfig
from detseg.data.splits import Split
from detseg.data.transforms import ImageSample, MixTransform, RandomHorizontalFlip, Resize, Transform
from detseg.data.transforms.resizing import preprocess
from detseg.data.transforms.transform import apply_transforms, preprocessing_of
from detseg.errors import ConfigError, DataError
from detseg.ops.masks import box_masks
from detseg.structures import Sample

MAX_PROPOSALS = 2000  # of an image: about as many as selective search gives R-CNN and Fast R-CNN


class DetectionDataset(Dataset[Sample]):
    """Images with their objects, without crowds and difficult ones."""

    def __init__(
        self,
        annotations: DetectionAnnotations,
        transforms: Sequence[Transform],
        training: bool,
        proposals: Proposals | None = None,
        masks: bool = False,
    ) -> None:
        self.annotations, self.transforms, self.training = annotations, transforms, training
        self.proposals, self.masks = proposals, masks

    def __len__(self) -> int:
        """Count the images."""
        return len(self.annotations)

    def __getitem__(self, key: int | Key) -> Sample:
        """Read an image by index; a training sampler adds the seed of its augmentation, else the index is the seed."""
        row, seed = key if isinstance(key, tuple) else (key, key)
        sample = self.image_sample(row)
        if self.training:
            sample = apply_transforms(self.transforms, sample, seed, self._sample_other)
        else:
            sample = preprocess(sample, preprocessing_of(self.transforms))
        height, width = self.annotations.sizes[row].tolist()
        return to_sample(sample, row, (height, width))

    def image_sample(self, row: int) -> ImageSample:
        """Read an image with its objects and proposals, without transforms."""
        objects = self.annotations.objects(row)
        learnt = ~(self.annotations.crowd[objects] | self.annotations.difficult[objects])
        height, width = self.annotations.sizes[row].tolist()
        boxes = self.annotations.boxes[objects][learnt].clip(0, (width, height, width, height))
        return ImageSample(
            image=read_image(self.annotations.path(row), (height, width)),
            boxes=boxes.astype(np.float32),
            labels=self.annotations.labels[objects][learnt],
            masks=self._grids(np.flatnonzero(learnt) + objects.start, boxes, height, width),
            proposals=self.proposals[row][:MAX_PROPOSALS] if self.proposals else None,
        )

    def _sample_other(self, generator: np.random.Generator) -> ImageSample:
        """Read a random image, or the next that can be read: an error of another image is raised in its own turn."""
        row = int(generator.integers(len(self)))
        for place in chain(range(row, len(self)), range(row)):
            with suppress(DataError):
                return self.image_sample(place)
        raise DataError("no image of the set can be used")

    def _grids(
        self, objects: NDArray[np.int64], boxes: NDArray[np.float64], height: int, width: int
    ) -> NDArray[np.uint8] | None:
        """Sample the masks of some objects of an image over their boxes, if masks are used."""
        if not self.masks:
            return None
        assert self.annotations.masks is not None
        found: NDArray[np.uint8] = box_masks(
            self.annotations.masks.draw(objects, height, width), torch.from_numpy(boxes).float()
        ).numpy()
        return found


class DetectionDataModule(BaseDataModule[DetectionAnnotations]):
    """A data set of objects in boxes.

    ``proposals`` is a folder that ``detseg propose`` wrote, for models without their own. ``masks`` are read of "all"
    objects, where a missing or broken mask is an error, or with "valid" of the objects that have one; the others are
    left out and counted in the log. ``sampling`` gives the mean number of times that an image occurs in a training
    epoch, by default once. The other arguments are those of ``BaseDataModule``.
    """

    task = "detection"

    def __init__(
        self,
        root: str,
        format: str | DatasetFormat = AUTO,
        split: SplitConfig | None = None,
        transforms: list[Transform] | None = None,
        batch_size: int = 2,
        num_workers: int = 2,
        proposals: str | None = None,
        masks: MaskUse = "none",
        sampling: ImageSampling | None = None,
        bad_samples: BadSamples = "error",
    ) -> None:
        super().__init__(root, format, split, transforms, batch_size, num_workers, bad_samples)
        self.proposals = proposals
        self.masks = masks
        self.sampling = sampling
        for transform in self.transforms:
            if isinstance(transform, MixTransform):
                _check_mixing(transform, masks != "none", proposals is not None)

    @staticmethod
    def default_transforms() -> list[Transform]:
        """Return the transforms of Faster R-CNN: a short edge of 800 pixels, flipped at random."""
        return [Resize(), RandomHorizontalFlip()]

    def bucket_ids(self, split: Split) -> NDArray[np.int64]:
        """Return the bucket of each image (I,): the same for images that are padded to the same size."""
        return bucket_ids(self.annotations(split).sizes, self.preprocessing, cropped=self.is_cropped(split))

    def repeat_factors(self, split: Split) -> NDArray[np.float64] | None:
        """Return the mean number of times that each image (I,) occurs in a training epoch; None for once each."""
        return None if self.sampling is None else self.sampling.repeat_factors(self.annotations(split))

    def dataset(self, split: Split) -> DetectionDataset:
        """Return the samples of a split, with their proposals if these are used."""
        annotations = self.annotations(split)
        proposals = None
        if self.proposals is not None:
            proposals = Proposals(cache_file(self.proposals, split), annotations, self._propose_command(split))
        return DetectionDataset(annotations, self.transforms, split == "train", proposals, self.masks != "none")

    def _match(self, annotations: DetectionAnnotations) -> DetectionAnnotations:
        """Number the classes in their order if the data set has no numbers for them."""
        matched = super()._match(annotations)
        if self.source.has_category_ids:
            return matched
        return replace(matched, category_ids=tuple(range(1, self.num_classes + 1)))

    def _propose_command(self, split: Split) -> str:
        """Return the command that makes the proposals of a split, without its method."""
        config = to_config(self)
        source = {
            f"--data.{name}": value
            if isinstance(value, str)
            else json.dumps(value).replace('"class":', '"class_path":')
            for name, value in config["init_args"].items()
            if name not in LOADING and value is not None
        }
        options = {"--data": config["class"], **source, "--split": split, "--out": str(self.proposals)}
        return shlex.join(["detseg", "propose", *(part for option in options.items() for part in option)])


LOADING = ("transforms", "batch_size", "num_workers", "proposals", "masks", "sampling", "bad_samples")


def _check_mixing(transform: MixTransform, masks: bool, proposals: bool) -> None:
    """Raise ConfigError for a transform that needs masks without them, or any with proposals."""
    name = type(transform).__name__
    if transform.needs_masks and not masks:
        raise ConfigError(f"transforms: {name} pastes objects by their masks; set `masks='all'`")
    if proposals:
        raise ConfigError(
            f"transforms: {name} adds objects of other images, which the proposals do not cover; leave one of them out"
        )


class COCO(DetectionDataModule):
    """A detection data set in COCO format."""

    default_format = "COCO"


class VOC(DetectionDataModule):
    """A detection data set in Pascal VOC format."""

    default_format = "VOC"
