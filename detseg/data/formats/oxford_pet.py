"""The trimaps of the Oxford-IIIT Pet data set (Parkhi et al. 2012)."""

from __future__ import annotations

from dataclasses import replace

from detseg.data.annotations.issues import FAIL_FAST, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.annotations.semantic import ClassDefaults, LabelFiles, SemanticAnnotations, pair
from detseg.data.formats.base import WHOLE, DatasetFormat, DatasetSource
from detseg.data.formats.layout import Tree
from detseg.data.formats.voc.layout import read_list

CLASSES, NUMBERS = ("background", "pet"), (2, 1)
BORDER = 3  # pixels that were not classified
LISTS = {"train": "trainval", "val": "test"}


class OxfordPetFormat(DatasetFormat):
    """Folders images and annotations/trimaps: the pixels of a pet and of the background; its border is void.

    The lists trainval.txt and test.txt are the splits. The boxes of heads in annotations/xmls are read as VOC's.
    """

    name = "OxfordPet"
    tasks = ("semantic_segmentation",)
    marks = "folders images and annotations/trimaps"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Detect a folder with trimaps."""
        folder = tree.root / "annotations"
        if not (folder / "trimaps").is_dir() or not (tree.root / "images").is_dir():
            return []
        lists = {split: folder / f"{name}.txt" for split, name in LISTS.items()}
        listed = all(file.is_file() for file in lists.values())
        return [DatasetSource(self, tree, tree.root, lists if listed else {WHOLE: None})]

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> SemanticAnnotations:
        """Pair the images and trimaps of a split. Raises DataError for one without a partner."""
        root, file = source.tree.root, source.splits[split]
        folder = root / "annotations" / "trimaps"
        if file:
            stems = [line.split()[0] for line in read_list(file) if not line.startswith("#")]
        else:
            stems = sorted(path.stem for path in folder.glob("[!.]*.png"))
        table = pair(root, (root / "images", folder), ClassDefaults(CLASSES, (BORDER,)), stems, issues)
        assert isinstance(table.maps, LabelFiles)
        return replace(table, maps=replace(table.maps, numbers=NUMBERS), category_ids=NUMBERS)
