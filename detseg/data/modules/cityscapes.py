"""Semantic segmentation of Cityscapes (Cordts et al. 2016)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from detseg.data.annotations.semantic import LabelFiles, SemanticAnnotations, semantic_masks
from detseg.data.formats.cityscapes import LABELS, image_of, label_files
from detseg.data.formats.layout import Tree, split_of
from detseg.data.loading.bad_samples import BadSamples
from detseg.data.modules.segmentation import SegmentationDataModule
from detseg.data.splits import Split
from detseg.data.transforms.segmentation import SegmentationTransforms
from detseg.errors import DataError

CLASSES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # that the benchmark measures
NUMBERS, TRAIN_NUMBERS = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


class CityscapesSegmentation(SegmentationDataModule):
    """A folder with gtFine and leftImg8bit, as their archives unpack.

    The classes are the 19 of the benchmark, with their numbers in labelIds; the other labels are void. Label images are
    labelIds, which come in the archive, or labelTrainIds, which cityscapesScripts makes: both say the same. The splits
    are the folders train and val; ``val_split: test`` measures on test, of which the labels are not public.

    Raises DataError when something that is needed is missing or broken.
    """

    def __init__(
        self,
        root: str,
        train_split: str = "train",
        val_split: str = "val",
        transforms: SegmentationTransforms | None = None,
        batch_size: int = 4,
        workers: int = 2,
        bad_samples: BadSamples = "error",
    ) -> None:
        super().__init__(transforms, batch_size, workers, bad_samples)
        self.root, self.splits = Path(root), {"train": train_split, "val": val_split}

    def read(self, split: Split) -> SemanticAnnotations:
        """Find the images of a split."""
        own = {frame: file for frame, file in self._files.items() if split_of(frame) == self.splits[split]}
        if not own:
            raise DataError(
                f"{self.root}: it has no {NUMBERS[1:]} of the split {self.splits[split]}; unpack "
                "gtFine_trainvaltest.zip there, or name another split"
            )
        trained = all(file.endswith(TRAIN_NUMBERS) for file in own.values())
        paths = np.array([str(self.root / file) for file in own.values()], dtype=np.str_)
        numbers = tuple(range(len(CLASSES))) if trained else CLASSES
        void = (255,) if trained else tuple(number for number in range(len(LABELS)) if number not in CLASSES)
        maps = LabelFiles(paths, len(CLASSES), (*void, 255), numbers)
        images = [image_of(self._tree, frame) for frame in own]
        return semantic_masks(self.root, [LABELS[number] for number in CLASSES], CLASSES, self.root, images, maps)

    @cached_property
    def _tree(self) -> Tree:
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; give the place of gtFine and leftImg8bit as root")
        return Tree(self.root)

    @cached_property
    def _files(self) -> dict[str, str]:
        """The label image of each frame: of one kind for all, labelIds unless some have none."""
        found = label_files(self._tree, (NUMBERS,))
        trained = label_files(self._tree, (TRAIN_NUMBERS,))
        return found if len(found) >= len(trained) else trained
