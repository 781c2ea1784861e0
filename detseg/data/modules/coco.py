"""Data sets in COCO format."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.masks import MaskUse
from detseg.data.formats.coco.layout import Places, find_only_annotations
from detseg.data.formats.coco.reader import read_coco
from detseg.data.formats.voc import is_voc_folder
from detseg.data.loading.bad_samples import BadSamples
from detseg.data.loading.repeat_factors import ImageSampling
from detseg.data.modules.detection import DetectionDataModule
from detseg.data.splits import Split, train_val_split
from detseg.data.transforms.detection import Transforms
from detseg.errors import DataError

WAYS = (
    "Give the place of your own data as root, get COCO with `python datasets/prepare_coco.py`, "
    "or take the small data set that is made on the spot: `--data data/shapes.yaml`"
)


class COCO(DetectionDataModule):
    """A folder with annotations in COCO format.

    Only ``root`` must be given: annotation files and image folders of the usual layouts are found, see
    datasets/README.md. What is given instead is a path, or one relative to ``root``. Of a data set that is not split,
    ``val_fraction`` of the images, drawn by ``seed``, are for validation; those that are the same byte by byte stay on
    one side. The classes are the categories of the training file in the order of their ids.

    Raises DataError when something that is needed is missing or broken.
    """

    def __init__(
        self,
        root: str,
        train_file: str | None = None,
        val_file: str | None = None,
        train_images: str | None = None,
        val_images: str | None = None,
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
        self.places = Places(
            self.root, {"train": train_file, "val": val_file}, {"train": train_images, "val": val_images}
        )
        self.val_fraction, self.seed = val_fraction, seed

    def read(self, split: Split) -> DetectionAnnotations:
        """Read the file of a split, or the part of the only file that belongs to it."""
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder. {WAYS}")
        if self.places.file("val") is None:
            return self._whole.subset(train_val_split(self._whole, self.val_fraction, self.seed, split))
        file = self.places.file(split)
        if file is None:
            raise DataError(f"{self.root}: no annotation file with train in its name; give train_file")
        return self._read(file, split)

    @cached_property
    def _whole(self) -> DetectionAnnotations:
        """All of a data set that is not split."""
        file = self.places.file("train")
        if file:
            return self._read(file, "train")
        try:
            file = find_only_annotations(self.root)
        except DataError as error:
            if is_voc_folder(self.root):
                raise DataError(f"{error}; it looks like a data set in VOC format: `--data VOC`") from None
            raise
        return self._read(file, None)

    def _read(self, file: Path, split: Split | None) -> DetectionAnnotations:
        return read_coco(file, self.places.folder(file, split), self.masks)
