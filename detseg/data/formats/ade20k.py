"""ADE20K's scene parsing benchmark (Zhou et al. 2017), as ADEChallengeData2016.zip unpacks it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from detseg.data.annotations.issues import FAIL_FAST, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.annotations.semantic import ClassDefaults, LabelFiles, SemanticAnnotations, pair
from detseg.data.formats.base import DatasetFormat, DatasetSource
from detseg.data.formats.layout import Tree, read_text
from detseg.errors import DataError

FOLDERS = {"train": "training", "val": "validation"}
NAMES = "objectInfo150.txt"
OTHER = 0  # number of the pixels of no class


class Ade20kFormat(DatasetFormat):
    """Folders images and annotations, each with training and validation, and objectInfo150.txt.

    The classes are numbered from 1, and have the first of their names in objectInfo150.txt; 0 is void. A file
    classes.txt or classes.json comes first.
    """

    name = "ADE20K"
    tasks = ("semantic_segmentation",)
    marks = "folders images/training and annotations/training"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Take a folder with label images in annotations/training, or the data set below it."""
        for root in (tree.root, tree.root / "ADEChallengeData2016"):
            folders = {split: (root / "images" / name, root / "annotations" / name) for split, name in FOLDERS.items()}
            splits = {split: pair for split, pair in folders.items() if all(folder.is_dir() for folder in pair)}
            if "train" in splits and any(splits["train"][1].glob("*.png")):
                return [DatasetSource(self, tree, root, splits, has_category_ids=True)]
        return []

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> SemanticAnnotations:
        """Pair the images and label images of a split. Raises DataError for one without a partner."""
        root = source.location
        names = read_names(root / NAMES) if (root / NAMES).is_file() else None
        table = pair(root, source.splits[split], ClassDefaults(names, (OTHER,)), issues=issues)
        numbers = tuple(range(1, len(table.classes) + 1))
        assert isinstance(table.maps, LabelFiles)
        maps = replace(table.maps, numbers=numbers, void=(*table.maps.void, OTHER))
        return replace(table, category_ids=numbers, maps=maps)


def read_names(file: Path) -> tuple[str, ...]:
    """Read the first name of each class, or all its names where the first ones are not unique. Raises DataError."""
    rows = [[value.strip() for value in line.split("\t") if value.strip()] for line in read_text(file).splitlines()]
    names = [row[-1] for row in rows[1:] if row]
    numbers = [row[0] for row in rows[1:] if row]
    if numbers != [str(number) for number in range(1, len(names) + 1)]:
        raise DataError(f"{file}: its lines must be numbered 1, 2 ...; take the file of ADEChallengeData2016.zip")
    first = tuple(name.partition(",")[0] for name in names)
    return first if len(set(first)) == len(first) else tuple(names)
