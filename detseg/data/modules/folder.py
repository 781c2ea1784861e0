"""A folder of which nobody says what it is: the format, the split and the images are found."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

from detseg.data.annotations.builder import Source
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.masks import MaskUse
from detseg.data.formats.discovery import FINDERS, find_source
from detseg.data.loading.bad_samples import BadSamples
from detseg.data.loading.repeat_factors import ImageSampling
from detseg.data.modules.detection import DetectionDataModule
from detseg.data.splits import Split, train_val_split
from detseg.data.transforms.detection import Transforms
from detseg.errors import ConfigError


class Folder(DetectionDataModule):
    """A folder in any format that is known: COCO, VOC, YOLO, LabelMe, CSV, Cityscapes, LVIS or OpenImages.

    ``format`` says which, where it holds labels in more than one; ``labels`` names one of several folders of YOLO
    labels, ``names`` the file in ``root`` with the names of their classes. A split that is there is used. Of a data
    set that is not split, ``val_fraction`` of the images are for validation, drawn by ``seed``; images that are the
    same byte by byte stay on one side.

    Raises DataError for a folder that holds none of these, or more than one.
    """

    def __init__(
        self,
        root: str,
        format: str | None = None,
        labels: str | None = None,
        names: str | None = None,
        val_fraction: float = 0.2,
        seed: int = 0,
        transforms: Transforms | None = None,
        batch_size: int = 2,
        workers: int = 2,
        proposals: str | None = None,
        masks: MaskUse = "none",
        sampling: ImageSampling | None = None,
        bad_samples: BadSamples = "error",
    ) -> None:
        super().__init__(transforms, batch_size, workers, proposals, masks, sampling, bad_samples)
        if format not in (None, *FINDERS):
            raise ConfigError(f"data.format: {format}; there is {', '.join(FINDERS)}")
        self.root, self.format, self.labels, self.names = Path(root), format, labels, names
        self.val_fraction, self.seed = val_fraction, seed

    def read(self, split: Split) -> DetectionAnnotations:
        """Read a split, or its part of a data set that is not split."""
        if "all" in self._found.parts:
            return self._whole.subset(train_val_split(self._whole, self.val_fraction, self.seed, split))
        part = "test" if split == "val" and "val" not in self._found.parts else split
        return self._found.parts[part]().with_masks(self.masks, {})

    def _match(self, annotations: DetectionAnnotations) -> DetectionAnnotations:
        """Number the classes in their order where the format has no numbers of its own for them."""
        matched = super()._match(annotations)
        if self._found.numbered:
            return matched
        return replace(matched, category_ids=tuple(range(1, self.num_classes + 1)))

    @cached_property
    def _whole(self) -> DetectionAnnotations:
        return self._found.parts["all"]().with_masks(self.masks, {})

    @cached_property
    def _found(self) -> Source:
        """What the folder is."""
        return find_source(self.root, self.format, self.labels, self.names, self.masks)
