"""Semantic segmentation in a plain folder of images and label images."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path

from detseg.data.annotations.semantic import SemanticAnnotations, pair
from detseg.data.formats.coco.layout import is_coco_folder
from detseg.data.formats.voc import is_voc_folder
from detseg.data.loading.bad_samples import BadSamples
from detseg.data.modules.camvid import CamVid
from detseg.data.modules.cityscapes import CityscapesSegmentation
from detseg.data.modules.coco_segmentation import COCOSegmentation
from detseg.data.modules.segmentation import SegmentationDataModule
from detseg.data.modules.voc_segmentation import VOCSegmentation
from detseg.data.splits import Split, train_val_split
from detseg.data.transforms.segmentation import SegmentationTransforms
from detseg.errors import DataError

log = logging.getLogger(__name__)


class FolderSegmentation(SegmentationDataModule):
    """A folder in any format that is known: Cityscapes, CamVid, VOC, COCO, or one of images and one of label images.

    The latter are ``root``/images, and in ``root``/masks a PNG of the same name with the number of the class of each
    pixel. Both may have folders train and val; otherwise ``val_fraction`` of the images, drawn by ``seed``, are for
    validation. The names of the classes 0, 1 ... are in ``root``/classes.txt or classes.json; 255 is void.

    Raises DataError for an image or labels without a partner, and when something is missing or broken.
    """

    def __init__(
        self,
        root: str,
        val_fraction: float = 0.2,
        seed: int = 0,
        transforms: SegmentationTransforms | None = None,
        batch_size: int = 4,
        workers: int = 2,
        bad_samples: BadSamples = "error",
    ) -> None:
        super().__init__(transforms, batch_size, workers, bad_samples)
        self.root = Path(root)
        self.val_fraction, self.seed = val_fraction, seed

    def read(self, split: Split) -> SemanticAnnotations:
        """Find the images of a split, or its part of a data set that is not split."""
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; give the place of your data as root")
        if self._found is not None:
            return self._found.read(split)
        images, masks = self.root / "images", self.root / "masks"
        if (images / "train").is_dir():
            return pair(self.root, images / split, masks / split)
        found = pair(self.root, images, masks)
        return found.subset(train_val_split(found, self.val_fraction, self.seed, split))

    @cached_property
    def _found(self) -> SegmentationDataModule | None:
        """The data set in a format of its own that the folder is, if it is one."""
        root, share = str(self.root), {"val_fraction": self.val_fraction, "seed": self.seed}
        found: SegmentationDataModule | None = None
        if (self.root / "images").is_dir() and (self.root / "masks").is_dir():
            return None
        if (self.root / "gtFine").is_dir():
            found = CityscapesSegmentation(root)
        elif (self.root / "trainannot").is_dir():
            found = CamVid(root)
        elif is_voc_folder(self.root, "SegmentationClass", ".png"):
            found = VOCSegmentation(root, **share)  # type: ignore[arg-type]
        elif is_coco_folder(self.root):
            found = COCOSegmentation(root, **share)  # type: ignore[arg-type]
        if found is not None:
            log.info("%s: taken for a data set of %s", self.root, type(found).__name__.removesuffix("Segmentation"))
        return found
