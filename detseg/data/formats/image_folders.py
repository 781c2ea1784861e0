"""Classification data sets with one folder for each class, as ImageNet comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from detseg.data.annotations.images import SUFFIXES
from detseg.data.annotations.issues import FAIL_FAST, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.annotations.table import ClassificationIndex
from detseg.data.formats.base import NO_NAMES, WHOLE, DatasetFormat, DatasetSource
from detseg.data.formats.layout import Tree
from detseg.errors import DataError


class ImageFoldersFormat(DatasetFormat):
    """Images below ROOT/SPLIT/CLASS, or ROOT/CLASS if the data set is not split. Folders name the classes."""

    name = "ImageFolders"
    tasks = ("classification",)
    marks = "images in a folder for each class"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Take any folder whose images all lie in folders of classes."""
        train = tree.root / "train"
        depth = 2 if train.is_dir() else 1
        nested = bool(tree.images) and all(image.count("/") >= depth for image in tree.images)
        return [self.open(tree.root)] if nested else []

    def open(self, root: Path, names: Mapping[str, str] = NO_NAMES) -> DatasetSource:
        """Open a folder: split if it has a folder of the training split, "train" by default."""
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; give the folder of the images as root")
        source = DatasetSource(self, Tree(root), root, {WHOLE: root})
        return self.select(source, names, "none")

    def select(self, source: DatasetSource, names: Mapping[str, str], masks: MaskReading) -> DatasetSource:
        """Choose the folders of the splits. Raises DataError for a named folder that is missing."""
        root = source.tree.root
        folders = {split: root / names.get(split, split) for split in ("train", "val", "test")}
        if not folders["train"].is_dir():
            return replace(source, splits={WHOLE: root})
        for split in names:
            if not folders[split].is_dir():
                raise DataError(f"{folders[split]}: there is no such folder; {self._choices(source, split)}")
        return replace(source, splits={split: folder for split, folder in folders.items() if folder.is_dir()})

    def missing_split(self, source: DatasetSource, name: str) -> str:
        """Name the folders that there are."""
        return f"{source.tree.root}: no folder for the split {name}; {self._choices(source, name)}"

    def _choices(self, source: DatasetSource, split: str) -> str:
        names = ", ".join(sorted(path.name for path in source.tree.root.iterdir() if path.is_dir()))
        return (
            f"`split.{split}` names one of {names}; if the folder of the training split is a class, let `split.train` "
            "name no folder"
        )

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> ClassificationIndex:
        """List the images of a split. Raises DataError for a class without images."""
        return list_images(source.splits[split])


def list_images(folder: Path) -> ClassificationIndex:
    """List all images below the class folders of ``folder``, ordered by name. Raises DataError for an empty class."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise DataError(f"{folder}: no folder of a class is in here; images are expected in {folder}/CLASS/NAME.jpg")
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = sorted(
            f"{name}/{path.relative_to(folder / name).as_posix()}"
            for path in (folder / name).rglob("*")
            if path.suffix.lower() in SUFFIXES
        )
        if not images:
            raise DataError(f"{folder / name}: no image of this class ({', '.join(SUFFIXES)})")
        files += images
        labels += [label] * len(images)
    names, numbers = np.array(files, dtype=np.str_), np.array(labels, dtype=np.int64)
    return ClassificationIndex(tuple(classes), tuple(range(len(classes))), folder, names, numbers)
