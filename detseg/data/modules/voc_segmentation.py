"""Semantic segmentation in Pascal VOC format, with the extra labels of SBD."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from detseg.data.annotations.class_names import find_classes
from detseg.data.annotations.images import SUFFIXES
from detseg.data.annotations.semantic import LabelFiles, SemanticAnnotations, by_stem, semantic_masks
from detseg.data.formats.voc import find_ids, find_splits, find_voc, read_list
from detseg.data.loading.bad_samples import BadSamples
from detseg.data.modules.segmentation import SegmentationDataModule
from detseg.data.splits import Split, group_identical, split_indices
from detseg.data.transforms.segmentation import SegmentationTransforms
from detseg.errors import DataError

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


class VOCSegmentation(SegmentationDataModule):
    """A folder with JPEGImages and SegmentationClass, one palette image for each, in which 255 is void.

    Only ``root`` must be given: the folder itself, or one above it such as VOCdevkit, is found. The splits are names of
    lists in ImageSets/Segmentation, train and val by default; of a data set without lists, ``val_fraction`` of the
    images, drawn by ``seed``, are for validation. The classes are VOC's 20 and the background, or those of a file
    classes.txt, classes.json or class_names.txt in the folder.

    SBD (Hariharan et al. 2011) labels more of VOC's images, without void. Converted to images in SegmentationClassAug,
    they serve whatever list names them: ``train_split: trainaug``. As published, ``sbd`` is the place of its folder
    dataset, relative to ``root`` or absolute: all of it that is not for validation is added to the training. Where both
    have labels of an image, VOC's are taken.

    Raises DataError when something that is needed is missing or broken.
    """

    default_classes: tuple[str, ...] = VOC_CLASSES

    def __init__(
        self,
        root: str,
        train_split: str | None = None,
        val_split: str | None = None,
        sbd: str | None = None,
        val_fraction: float = 0.2,
        seed: int = 0,
        transforms: SegmentationTransforms | None = None,
        batch_size: int = 4,
        workers: int = 2,
        bad_samples: BadSamples = "error",
    ) -> None:
        super().__init__(transforms, batch_size, workers, bad_samples)
        self.root = Path(root)
        self.splits = {"train": train_split, "val": val_split}
        self.sbd = sbd
        self.val_fraction, self.seed = val_fraction, seed

    def read(self, split: Split) -> SemanticAnnotations:
        """Find the images of a split, or its part of a data set that is not split."""
        ids = self._ids(split)
        images, labels = self._images, self._labels
        for stem in ids:
            for what, files in (("image", images), ("labels", labels)):
                if stem not in files:
                    raise DataError(f"{self._folder}: there is no file with the {what} of {stem} (split {split})")
        source, classes, void = find_classes(self._folder, self.default_classes)
        maps = LabelFiles(np.array([str(labels[stem]) for stem in ids], dtype=np.str_), len(classes), void)
        paths = [str(images[stem].absolute()) for stem in ids]  # SBD's lie elsewhere than in the folder
        return semantic_masks(source, classes, range(len(classes)), self._folder, paths, maps)

    def _ids(self, split: Split) -> list[str]:
        """The stems of the images of a split."""
        if self._split("val") is None:
            ids = sorted(by_stem(self._folder / "SegmentationClass", (".png",)))
            same = group_identical([self._images[stem] for stem in ids if stem in self._images])
            together = same if sum(map(len, same)) == len(ids) else None  # else one is missing, which ``read`` says
            return [ids[row] for row in split_indices(len(ids), self.val_fraction, split, self.seed, together)]
        name = self._split(split)
        if name is None:
            raise DataError(f"{self._folder}: no list of images to train on; give train_split as well as val_split")
        ids = find_ids(self._folder, name, "Segmentation")
        if split == "train" and self._sbd is not None:
            more = [stem for file in ("train.txt", "val.txt") for stem in read_list(self._sbd / file)]
            left_out = set(self._ids("val"))
            ids = [stem for stem in dict.fromkeys([*ids, *more]) if stem not in left_out]
        return ids

    def _split(self, split: Split) -> str | None:
        """Name of a list in ImageSets/Segmentation."""
        found = find_splits(self._folder, "Segmentation")
        return self.splits[split] or (found[split == "val"] if found else None)

    @cached_property
    def _folder(self) -> Path:
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; give the place of your data as root")
        return find_voc(self.root, "SegmentationClass")

    @cached_property
    def _sbd(self) -> Path | None:
        """The folder of SBD with cls and img in it."""
        if self.sbd is None:
            return None
        folder = self._folder / self.sbd
        found = next((place for place in (folder, folder / "dataset") if (place / "cls").is_dir()), None)
        if found is None:
            raise DataError(f"{folder}: it has no folder cls with SBD's labels; give the place of its folder dataset")
        return found

    @cached_property
    def _images(self) -> dict[str, Path]:
        """The image file of each stem."""
        folders = [self._folder / "JPEGImages", *([self._sbd / "img"] if self._sbd else [])]
        return _first(folders, SUFFIXES)

    @cached_property
    def _labels(self) -> dict[str, Path]:
        """The file of labels of each stem."""
        folders = [self._folder / "SegmentationClass", self._folder / "SegmentationClassAug"]
        return {**(_first([self._sbd / "cls"], (".mat",)) if self._sbd else {}), **_first(folders, (".png",))}


def _first(folders: list[Path], suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The files by stem; of several folders, those that are there, and the first that has a stem."""
    found: dict[str, Path] = {}
    for folder in folders:
        if folder.is_dir():
            found = {**{stem: folder / name for stem, name in by_stem(folder, suffixes).items()}, **found}
    return found
