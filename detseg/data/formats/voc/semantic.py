"""Pascal VOC's semantic masks, with the extra labels of SBD (Hariharan et al. 2011)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from detseg.data.annotations.images import SUFFIXES
from detseg.data.annotations.issues import FAIL_FAST, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.annotations.semantic import LabelFiles, SemanticAnnotations, by_stem, find_classes, semantic_masks
from detseg.data.formats.base import NO_NAMES, WHOLE, DatasetFormat, DatasetSource
from detseg.data.formats.layout import Tree
from detseg.data.formats.voc.layout import choose_lists, find_ids, find_voc, read_list
from detseg.errors import DataError

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


class VocSemanticFormat(DatasetFormat):
    """Folders JPEGImages and SegmentationClass, with a palette image for each image, in which 255 is void.

    Splits are names of lists in ImageSets/Segmentation, train and val by default. ``classes`` are by default VOC's 20
    and the background; a file classes.txt, classes.json or class_names.txt in the folder comes first.

    SBD labels more of VOC's images, without void. Converted to images in SegmentationClassAug, they serve any list that
    names them, such as trainaug. As published, ``sbd`` is its folder dataset, relative to the root or absolute: all of
    it that is not for validation is added to training. VOC's labels come first where both label an image.
    """

    name = "VOC"
    tasks = ("semantic_segmentation",)
    marks = "folders JPEGImages and SegmentationClass"

    def __init__(self, sbd: str | None = None, classes: list[str] | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.sbd = sbd
        self.classes = classes or list(VOC_CLASSES)

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Take a folder with label images in SegmentationClass, or the data set below it."""
        try:
            location = find_voc(tree.root, "SegmentationClass")
        except DataError as error:
            return [DatasetSource(self, tree, tree.root, {}, problem=str(error))]
        if not any(location.glob("SegmentationClass/*.png")):
            return []
        return [DatasetSource(self, tree, location, choose_lists(location, "Segmentation", NO_NAMES))]

    def open(self, root: Path, names: Mapping[str, str] = NO_NAMES) -> DatasetSource:
        """Open a folder, or the data set in a folder such as VOCdevkit below it."""
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; give the folder of your data as root")
        location = find_voc(root, "SegmentationClass")
        return DatasetSource(self, Tree(location), location, choose_lists(location, "Segmentation", names))

    def select(self, source: DatasetSource, names: Mapping[str, str], masks: MaskReading) -> DatasetSource:
        """Choose lists of images."""
        return replace(source, splits=choose_lists(source.location, "Segmentation", names))

    def missing_split(self, source: DatasetSource, name: str) -> str:
        """Describe the error that validation alone has a list."""
        return f"{source.location}: no list of images to train on; give `split.train='LIST'` as well as `split.val`"

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> SemanticAnnotations:
        """Find the images and label images of a split. Raises DataError for one that is missing."""
        root = source.location
        sbd = self._find_sbd(root)
        stems = self._stems(source, split, sbd)
        images = _by_stem([root / "JPEGImages", *([sbd / "img"] if sbd else [])], SUFFIXES)
        labels = {
            **(_by_stem([sbd / "cls"], (".mat",)) if sbd else {}),
            **_by_stem([root / "SegmentationClass", root / "SegmentationClassAug"], (".png",)),
        }
        for stem in stems:
            for what, files in (("image", images), ("labels", labels)):
                if stem not in files:
                    raise DataError(f"{root}: there is no file with the {what} of {stem} (split {split})")
        names, classes, void = find_classes(root, self.classes)
        maps = LabelFiles(np.array([str(labels[stem]) for stem in stems], dtype=np.str_), len(classes), void)
        paths = [str(images[stem].absolute()) for stem in stems]  # SBD's are outside of the folder
        return semantic_masks(names, classes, range(len(classes)), root, paths, maps)

    def _stems(self, source: DatasetSource, split: str, sbd: Path | None) -> list[str]:
        """List the stems of the images of a split."""
        root, name = source.location, source.splits[split]
        if split == WHOLE and name is None:
            return sorted(by_stem(root / "SegmentationClass", (".png",)))
        stems = find_ids(root, name, "Segmentation")
        if split == "train" and sbd is not None:
            more = [stem for file in ("train.txt", "val.txt") for stem in read_list(sbd / file)]
            validation = set(find_ids(root, source.splits["val"], "Segmentation"))
            stems = [stem for stem in dict.fromkeys([*stems, *more]) if stem not in validation]
        return stems

    def _find_sbd(self, root: Path) -> Path | None:
        """Return the folder of SBD with cls and img in it, if it is used. Raises DataError if it is not there."""
        if self.sbd is None:
            return None
        folder = root / self.sbd
        for place in (folder, folder / "dataset"):
            if (place / "cls").is_dir():
                return place
        raise DataError(f"{folder}: it has no folder cls with SBD's labels; give its folder dataset as sbd")


def _by_stem(folders: list[Path], suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Map stems to files, of the first of the existing folders that has a stem."""
    files: dict[str, Path] = {}
    for folder in folders:
        if folder.is_dir():
            files = {**{stem: folder / name for stem, name in by_stem(folder, suffixes).items()}, **files}
    return files
