"""Data module of objects in boxes, with or without masks."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detseg.configurable import to_config
from detseg.constants import MAX_PROPOSALS
from detseg.data.annotations.detection import DetectionAnnotations, concat_tables
from detseg.data.annotations.masks import MaskUse
from detseg.data.formats.base import DatasetFormat
from detseg.data.formats.format_detection import AUTO
from detseg.data.loading.dataset import SampleDataset
from detseg.data.loading.proposals import Proposals, cache_file
from detseg.data.loading.samplers import ImageSampling
from detseg.data.modules.base import BaseDataModule, SplitConfig
from detseg.data.splits import Split
from detseg.data.transforms import ImageSample, MixTransform, RandomHorizontalFlip, Resize, Transform
from detseg.errors import ConfigError, DataError
from detseg.ops.masks import box_masks


class DetectionDataset(SampleDataset[DetectionAnnotations]):
    """Images with their objects, without crowds and difficult ones; with masks if ``masks``."""

    def __init__(
        self,
        annotations: DetectionAnnotations,
        transforms: Sequence[Transform],
        training: bool,
        proposals: Proposals | None = None,
        masks: bool = False,
    ) -> None:
        super().__init__(annotations, transforms, training)
        self.proposals, self.masks = proposals, masks

    def read(self, row: int) -> ImageSample:
        """Read an image with its objects and proposals, without transforms."""
        table, objects = self.annotations, self.annotations.objects(row)
        learnt = ~(table.crowd[objects] | table.difficult[objects])
        height, width = table.sizes[row].tolist()
        image = table.read_image(row, (height, width))  # before masks of that size are drawn: it may be too large
        boxes = table.boxes[objects][learnt].clip(0, (width, height, width, height)).astype(np.float32)
        masks = None
        if self.masks:
            assert table.masks is not None
            drawn = table.masks.draw(np.flatnonzero(learnt) + objects.start, height, width)
            masks = box_masks(drawn, torch.from_numpy(boxes)).numpy()
        return ImageSample(
            image=image,
            boxes=boxes,
            labels=table.labels[objects][learnt],
            masks=masks,
            proposals=self.proposals[row][:MAX_PROPOSALS] if self.proposals else None,
        )

    def sample_other(self, generator: np.random.Generator) -> ImageSample:
        """Read a random image, or the next that can be read: an error of another image is raised in its own turn."""
        row = int(generator.integers(len(self)))
        for place in chain(range(row, len(self)), range(row)):
            with suppress(DataError):
                return self.read(place)
        raise DataError("no image of the set can be used")


class DetectionDataModule(BaseDataModule[DetectionAnnotations]):
    """A data set of objects in boxes.

    ``proposals`` is the folder of proposals to load, for models without their own. ``masks`` are read of "all"
    objects, where a missing or broken mask is an error, or with "valid" of the objects that have one; the others are
    left out and counted in the log. ``sampling`` gives the mean number of times that an image occurs in a training
    epoch, by default once. The other arguments are those of ``BaseDataModule``.
    """

    task = "detection"
    dataset_cls = DetectionDataset

    def __init__(
        self,
        root: str,
        format: str | DatasetFormat = AUTO,
        split: SplitConfig | None = None,
        *,
        proposals: str | None = None,
        masks: MaskUse = "none",
        sampling: ImageSampling | None = None,
        **settings: Any,
    ) -> None:
        self.proposals, self.masks, self.sampling = proposals, masks, sampling
        super().__init__(root, format, split, **settings)

    @staticmethod
    def default_transforms() -> list[Transform]:
        """Return the transforms of Faster R-CNN: a short edge of 800 pixels, flipped at random."""
        return [Resize(), RandomHorizontalFlip()]

    def check_transforms(self) -> None:
        """Raise ConfigError for a transform that needs masks without them, or any that mixes with proposals."""
        for transform in self.transforms:
            name = type(transform).__name__
            if isinstance(transform, MixTransform) and transform.needs_masks and self.masks == "none":
                raise ConfigError(f"transforms: {name} pastes objects by their masks; set `masks='all'`")
            if isinstance(transform, MixTransform) and self.proposals is not None:
                raise ConfigError(
                    f"transforms: {name} adds objects of other images, which the proposals do not cover; leave one of "
                    "them out"
                )

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

    def concat(self, tables: list[DetectionAnnotations]) -> DetectionAnnotations:
        """Join the tables of several splits."""
        return concat_tables(tables)

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


class COCO(DetectionDataModule):
    """A detection data set in COCO format."""

    default_format = "COCO"


class VOC(DetectionDataModule):
    """A detection data set in Pascal VOC format."""

    default_format = "VOC"
