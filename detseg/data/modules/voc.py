"""Data sets in Pascal VOC format."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.masks import MaskUse
from detseg.data.formats.coco.layout import is_coco_folder
from detseg.data.formats.voc import find_ids, find_splits, find_voc, read_voc
from detseg.data.loading.bad_samples import BadSamples
from detseg.data.loading.repeat_factors import ImageSampling
from detseg.data.modules.detection import DetectionDataModule
from detseg.data.splits import Split, train_val_split
from detseg.data.transforms.detection import Transforms
from detseg.errors import DataError


class VOC(DetectionDataModule):
    """A folder with annotations in Pascal VOC format, one file for each image.

    Only ``root`` must be given: the folder itself, or one above it such as VOCdevkit, is found, see
    datasets/README.md. The splits are names of lists in ImageSets/Main: train and val, or trainval and test where
    these are missing. Of a data set without lists, ``val_fraction`` of the images, drawn by ``seed``, are for
    validation; those that are the same byte by byte stay on one side. The classes are the names found in the training
    files, sorted. Masks are the objects of the images in SegmentationObject; if they are asked for, the lists are those
    of ImageSets/Segmentation.

    Raises DataError when something that is needed is missing or broken.
    """

    def __init__(
        self,
        root: str,
        train_split: str | None = None,
        val_split: str | None = None,
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
        self.root = Path(root)
        self.splits = {"train": train_split, "val": val_split}
        self.val_fraction, self.seed = val_fraction, seed

    def read(self, split: Split) -> DetectionAnnotations:
        """Read the images of a split, or its part of a data set that is not split."""
        if self._split("val") is None:
            return self._whole.subset(train_val_split(self._whole, self.val_fraction, self.seed, split))
        name = self._split(split)
        if name is None:
            raise DataError(f"{self._folder}: no list of images to train on; give train_split as well as val_split")
        return read_voc(self._folder, find_ids(self._folder, name, self._kind), self.masks)

    def _match(self, annotations: DetectionAnnotations) -> DetectionAnnotations:
        """Number the classes in their order, since VOC has no numbers of its own for them."""
        return replace(super()._match(annotations), category_ids=tuple(range(1, self.num_classes + 1)))

    @cached_property
    def _folder(self) -> Path:
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; give the place of your data as root")
        try:
            return find_voc(self.root)
        except DataError as error:
            if is_coco_folder(self.root):
                raise DataError(f"{error}; it looks like a data set in COCO format: `--data COCO`") from None
            raise

    @cached_property
    def _whole(self) -> DetectionAnnotations:
        """All of a data set that is not split."""
        return read_voc(self._folder, find_ids(self._folder, self._split("train"), self._kind), self.masks)

    @property
    def _kind(self) -> str:
        """Which lists of images count: not every image with boxes has masks."""
        return "Main" if self.masks == "none" or not find_splits(self._folder, "Segmentation") else "Segmentation"

    def _split(self, split: Split) -> str | None:
        """Name of a list of images."""
        found = find_splits(self._folder, self._kind)
        return self.splits[split] or (found[split == "val"] if found else None)
