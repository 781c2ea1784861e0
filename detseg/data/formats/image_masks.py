"""Semantic segmentation data sets with a folder of images and a folder of label images."""

from __future__ import annotations

from detseg.data.annotations.issues import FAIL_FAST, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.annotations.semantic import ClassDefaults, SemanticAnnotations, pair
from detseg.data.formats.base import WHOLE, DatasetFormat, DatasetSource
from detseg.data.formats.layout import Tree


class ImageMasksFormat(DatasetFormat):
    """Images in ROOT/images, and in ROOT/masks PNGs of the same names with the class number of each pixel.

    Both may have folders train, val and test. The names of the classes 0, 1 ... are in ROOT/classes.txt or
    classes.json; 255 is void.
    """

    name = "ImageMasks"
    tasks = ("semantic_segmentation",)
    marks = "folders images and masks, and classes.txt"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Take a folder with folders images and masks."""
        images, masks = tree.root / "images", tree.root / "masks"
        if not images.is_dir() or not masks.is_dir():
            return []
        if not (images / "train").is_dir():
            return [DatasetSource(self, tree, tree.root, {WHOLE: (images, masks)})]
        splits = [split for split in ("train", "val", "test") if (images / split).is_dir()]
        return [DatasetSource(self, tree, tree.root, {split: (images / split, masks / split) for split in splits})]

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> SemanticAnnotations:
        """Pair the images and label images of a split. Raises DataError for an image or labels without a partner."""
        return pair(source.tree.root, source.splits[split], ClassDefaults(), issues=issues)
