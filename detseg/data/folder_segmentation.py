"""Semantic segmentation in a plain folder of images and label images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detseg.data.bad_samples import BadSamples
from detseg.data.base import split_rows
from detseg.data.class_names import find_classes
from detseg.data.coco_format import Split
from detseg.data.images import SUFFIXES
from detseg.data.label_maps import LabelFiles, LabelMaps, by_stem, label_maps
from detseg.data.reports import collects, report
from detseg.data.segmentation import SegmentationData
from detseg.data.segmentation_transforms import SegmentationTransforms
from detseg.errors import DataError


class FolderSegmentation(SegmentationData):
    """Images in ``root``/images, and in ``root``/masks a PNG of the same name with the number of the class of a pixel.

    Both may have folders train and val; otherwise ``val_fraction`` of the images, always the same ones, are for
    validation. The names of the classes 0, 1 ... are in ``root``/classes.txt or classes.json; 255 is void.

    Raises DataError for an image or labels without a partner, and when something is missing or broken.
    """

    def __init__(
        self,
        root: str,
        val_fraction: float = 0.2,
        transforms: SegmentationTransforms | None = None,
        batch_size: int = 4,
        workers: int = 2,
        bad_samples: BadSamples = "error",
    ) -> None:
        super().__init__(transforms, batch_size, workers, bad_samples)
        self.root = Path(root)
        self.val_fraction = val_fraction

    def read(self, split: Split) -> LabelMaps:
        """Find the images of a split, or its part of a data set that is not split."""
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; give the place of your data as root")
        images, masks = self.root / "images", self.root / "masks"
        if (images / "train").is_dir():
            return pair(self.root, images / split, masks / split)
        found = pair(self.root, images, masks)
        return found.subset(split_rows(len(found), self.val_fraction, split))


def pair(
    root: Path,
    images: Path,
    masks: Path,
    default: tuple[str, ...] | None = None,
    void: tuple[int, ...] = (),
    stems: list[str] | None = None,
) -> LabelMaps:
    """Pair the images and the label images of two folders by their names; classes are found in ``root``.

    ``default`` and ``void`` are as in ``find_classes``; ``stems`` are the images to take, all by default. Raises
    DataError for one without a partner.
    """
    image_files, label_files = by_stem(images, SUFFIXES), by_stem(masks, (".png",))
    if stems is None:
        stems = sorted(image_files.keys() | label_files.keys())
    for folder, files, what in ((images, image_files, "image"), (masks, label_files, "labels")):
        missing = [stem for stem in stems if stem not in files]
        others = f", and of {len(missing) - 1} more" if len(missing) > 1 and not collects() else ""
        for stem in missing:
            told = f"{folder / stem}: the {what} of this name are missing{others}; add or take out both"
            report("mask-missing", folder / stem, told)
    stems = [stem for stem in stems if stem in image_files and stem in label_files]
    source, classes, void = find_classes(root, default, void)
    maps = LabelFiles(np.array([str(masks / label_files[stem]) for stem in stems], dtype=np.str_), len(classes), void)
    return label_maps(source, classes, range(len(classes)), images, [image_files[stem] for stem in stems], maps)
