"""CamVid, as the authors of SegNet laid it out (480 x 360 pixels)."""

from __future__ import annotations

from pathlib import Path

from detseg.data.annotations.issues import FAIL_FAST, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.annotations.semantic import ClassDefaults, SemanticAnnotations, pair
from detseg.data.formats.base import DatasetFormat, DatasetSource
from detseg.data.formats.layout import Tree
from detseg.data.formats.voc.layout import read_list

CLASSES = (
    *("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist"),
)
UNLABELLED = 11


class CamVidFormat(DatasetFormat):
    """Folders train and trainannot, val and valannot, test and testannot.

    A list such as train.txt selects the images of a split. The 11 classes are SegNet's, unless a file classes.json or
    classes.txt names others; 11 is void.
    """

    name = "CamVid"
    tasks = ("semantic_segmentation",)
    marks = "folders train and trainannot"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Take a folder with a folder trainannot."""
        splits = {name: name for name in ("train", "val", "test") if (tree.root / f"{name}annot").is_dir()}
        return [DatasetSource(self, tree, tree.root, splits)] if "train" in splits else []

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> SemanticAnnotations:
        """Pair the images and label images of a split. Raises DataError for an image or labels without a partner."""
        root, name = source.tree.root, source.splits[split]
        file = root / f"{name}.txt"
        stems = [Path(line.split()[0]).stem for line in read_list(file)] if file.is_file() else None
        folders = (root / name, root / f"{name}annot")
        return pair(root, folders, ClassDefaults(CLASSES, (UNLABELLED,)), stems, issues)
