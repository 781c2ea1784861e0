"""COCO annotations of boxes and masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import FAIL_FAST, Issue, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.base import NO_NAMES, WHOLE, ConversionReport, DatasetFormat, DatasetSource
from detseg.data.formats.coco.layout import (
    MANY,
    describe_broken,
    find_annotations,
    find_images,
    find_only_annotations,
    find_split,
    in_places,
    is_coco,
)
from detseg.data.formats.coco.reader import read_coco
from detseg.data.formats.coco.writer import write_coco
from detseg.data.formats.layout import SPLIT_PATTERNS, Tree, split_of, unused_label
from detseg.errors import DataError

HINT = (
    "Give the folder of your own data as root, get COCO with `python datasets/prepare_coco.py`, "
    "or take the small data set that is drawn on first use: `--data data/shapes.yaml`"
)


class CocoSplit(NamedTuple):
    """Annotation file of a split."""

    file: Path
    images: str | None  # split whose images the file labels; None if it labels all


class CocoFiles(DatasetFormat):
    """Annotation files in the usual layouts of folders, told apart by the words train, val and test in their paths.

    ``images`` are folders of images by split, relative to the root; by default they are found.
    """

    def __init__(self, images: dict[str, str] | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.images = images or {}

    def open(self, root: Path, names: Mapping[str, str] = NO_NAMES) -> DatasetSource:
        """Open a folder; ``names`` are annotation files relative to it, others are found."""
        if not root.is_dir():
            raise DataError(f"{root}: no such folder. {HINT}")
        train = root / names["train"] if "train" in names else None
        val = root / names["val"] if "val" in names else find_annotations(root, "val")
        train = train or find_annotations(root, "train")
        if val is None:
            whole = CocoSplit(train, "train") if train else CocoSplit(find_only_annotations(root), None)
            return self._source(Tree(root), {WHOLE: whole})
        splits = {"train": train, "val": val}
        return self._source(Tree(root), {split: CocoSplit(file, split) for split, file in splits.items() if file})

    def open_file(self, file: Path) -> DatasetSource:
        """Open an annotation file by itself, in its folder or the folder of its ``annotations``."""
        folder = file.parent.parent if file.parent.name.lower() == "annotations" else file.parent
        return self._source(Tree(folder), {WHOLE: CocoSplit(file, None)})

    def missing_split(self, source: DatasetSource, name: str) -> str:
        """Describe the error that no annotation file is one of this split."""
        return f"{source.tree.root}: no annotation file with {name} in its name; give `split.{name}='FILE'`"

    def select(self, source: DatasetSource, names: Mapping[str, str], masks: MaskReading) -> DatasetSource:
        """Choose annotation files, relative to the root."""
        chosen = {split: CocoSplit(source.tree.root / name, split) for split, name in names.items()}
        if WHOLE not in source.splits:
            return replace(source, splits={**source.splits, **chosen})
        train = chosen.get("train", source.splits[WHOLE])
        return replace(source, splits={"train": train, **chosen} if "val" in chosen else {WHOLE: train})

    def _source(self, tree: Tree, splits: Mapping[str, CocoSplit]) -> DatasetSource:
        return DatasetSource(self, tree, tree.root, splits, has_category_ids=True)

    def _folder(self, source: DatasetSource, split: CocoSplit, issues: IssueCollector) -> Path:
        """Return the folder of the images of an annotation file."""
        root = source.tree.root
        folder = self.images.get(split.images or "train")
        return root / folder if folder else find_images(root, split.file, split.images, issues)


class CocoFormat(CocoFiles):
    """Boxes and masks of COCO's instances; the classes are the categories in the order of their ids."""

    name = "COCO"
    tasks = ("detection", "instance_segmentation")
    marks = ".json with images, annotations, categories"

    def open(self, root: Path, names: Mapping[str, str] = NO_NAMES) -> DatasetSource:
        """Open a folder as ``CocoFiles`` does, with its test split if no files are named."""
        detected = self.detect(Tree(root)) if root.is_dir() and not names else []
        return next((source for source in detected if len(source.splits) > 1), None) or super().open(root, names)

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Find the files for training, validation and test, or one for all images, by their names and contents.

        Raises AmbiguousFormatError if several files could be one of these.
        """
        root = tree.root
        named = {word: file for word in SPLIT_PATTERNS if (file := find_split(root, word))}
        labels = [file for file in named.values() if is_coco(file)]
        if not labels:
            try:
                file = find_only_annotations(root)
            except DataError:
                return self._near_misses(tree)
            if not is_coco(file):
                return self._near_misses(tree)
            named, labels = {WHOLE: file}, [file]
        # A file in the place of a split is its labels, whatever is in it.
        places = in_places([*named.values()], labels, root)
        files = {w: file for w, file in named.items() if file in labels or file in places or describe_broken(file)}
        whole = len(files) == 1
        parts = {WHOLE if whole else word: CocoSplit(file, None if whole else word) for word, file in files.items()}
        return [replace(self._source(tree, parts), issues=self._unused(tree, [*files.values()]))]

    def _unused(self, tree: Tree, used: list[Path]) -> list[Issue]:
        """List the other annotation files, and broken ones."""
        texts = tree.ending(".json")
        others = [file for file in texts if len(texts) <= MANY and tree.root / file not in used]
        issues = []
        for file in others:
            if reason := describe_broken(tree.root / file):
                issues.append(unused_label(tree, file, reason))
            elif is_coco(tree.root / file):
                split = split_of(file)
                same = [other.name for other in used if split_of(other.relative_to(tree.root).as_posix()) == split]
                unused = unused_label(tree, file, f"{same[0]} is read instead" if same else "no split uses it")
                issues.append(unused._replace(kind="label-unused" if same else unused.kind))
        return issues

    def _near_misses(self, tree: Tree) -> list[DatasetSource]:
        """Describe files that could have been COCO's, if there are few."""
        files = tree.ending(".json")
        several = [file for file in files if len(files) <= MANY and is_coco(tree.root / file)]
        if len(several) > 1:
            problem = f"{', '.join(several)} are all of COCO: merge them, or give `split.train='FILE'`"
            return [DatasetSource(self, tree, tree.root, {}, problem=f"{problem} and `split.val='FILE'`")]
        if not 0 < len(files) < 4:
            return []
        problems = [f"no images, annotations and categories of COCO in {', '.join(files)}"]
        problems += [f"{file}: {reason}" for file in files if (reason := describe_broken(tree.root / file))]
        return [DatasetSource(self, tree, tree.root, {}, problem="; ".join(problems))]

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        """Read the file of a split."""
        part = source.splits[split]
        return read_coco(part.file, self._folder(source, part, issues), masks, issues, self.orientation)

    def write(
        self, splits: Mapping[str, DetectionAnnotations], out: Path, place: Callable[[Path, Path], None]
    ) -> ConversionReport:
        """Write an annotation file and a folder of images for each split."""
        return write_coco(splits, out, place)
