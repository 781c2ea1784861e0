"""CamVid, as the authors of SegNet laid it out."""

from __future__ import annotations

from pathlib import Path

from detseg.data.annotations.semantic import SemanticAnnotations, pair
from detseg.data.formats.voc import read_list
from detseg.data.loading.bad_samples import BadSamples
from detseg.data.modules.segmentation import SegmentationDataModule
from detseg.data.splits import Split
from detseg.data.transforms.segmentation import SegmentationTransforms
from detseg.errors import DataError

CAMVID_CLASSES = (
    *("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist"),
)
UNLABELLED = 11


class CamVid(SegmentationDataModule):
    """The folders train and trainannot, val and valannot, test and testannot of SegNet's version (480 x 360 pixels).

    A list such as train.txt, where there is one, says which images are taken. The 11 classes are SegNet's, unless a
    file classes.json or classes.txt in ``root`` names others; 11 is void. ``val_split`` may be test.

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
        self.root = Path(root)
        self.splits = {"train": train_split, "val": val_split}

    def read(self, split: Split) -> SemanticAnnotations:
        """Find the images of a split."""
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; give the place of your data as root")
        name = self.splits[split]
        file = self.root / f"{name}.txt"
        stems = [Path(line.split()[0]).stem for line in read_list(file)] if file.is_file() else None
        images, masks = self.root / name, self.root / f"{name}annot"
        return pair(self.root, images, masks, CAMVID_CLASSES, (UNLABELLED,), stems)
