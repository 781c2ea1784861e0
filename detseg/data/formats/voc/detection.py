"""Pascal VOC annotations of boxes, with masks from SegmentationObject."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import FAIL_FAST, Issue, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.base import (
    NO_NAMES,
    WHOLE,
    AmbiguousFormatError,
    ConversionReport,
    DatasetFormat,
    DatasetSource,
    label_source,
)
from detseg.data.formats.layout import Tree, read_head, unused_label
from detseg.data.formats.voc.layout import choose_lists, find_ids, find_splits, find_voc, label_files, require_folder
from detseg.data.formats.voc.reader import read_voc, read_xml
from detseg.data.formats.voc.writer import write_voc
from detseg.errors import DataError

ROOT = re.compile(r"<annotation[\s>]")  # unlike the <annotations> of other formats


class VocFormat(DatasetFormat):
    """Folders Annotations and JPEGImages, with lists of images in ImageSets; or .xml files anywhere in the folder.

    Splits are names of lists in ImageSets/Main, or in ImageSets/Segmentation where masks are asked for: train and val,
    or trainval and test.
    """

    name = "VOC"
    tasks = ("detection", "instance_segmentation")
    marks = "an .xml for each image"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Take a folder with .xml files of annotations. Raises AmbiguousFormatError for several data sets."""
        labels = [file for file in tree.ending(".xml") if ROOT.search(read_head(tree.root / file))]
        sources = label_source(self, tree, labels, per_image=True)
        if not sources:
            return []
        parts = sources[0].splits
        try:
            root = find_voc(tree.root)
        except DataError as error:
            if WHOLE in parts and isinstance(error, AmbiguousFormatError):
                raise
            return sources
        splits = choose_lists(root, "Main", NO_NAMES)
        if splits == {WHOLE: None} and WHOLE not in parts:
            return sources
        return [DatasetSource(self, tree, root, splits, issues=_unlisted(root, splits))]

    def open(self, root: Path, names: Mapping[str, str] = NO_NAMES) -> DatasetSource:
        """Open a folder, or the data set in a folder such as VOCdevkit below it."""
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; give the folder of your data as root")
        location = find_voc(root)
        return DatasetSource(self, Tree(location), location, choose_lists(location, "Main", names))

    def select(self, source: DatasetSource, names: Mapping[str, str], masks: MaskReading) -> DatasetSource:
        """Choose lists of images."""
        if any(isinstance(files, list) for files in source.splits.values()):
            return super().select(source, names, masks)
        return replace(source, splits=choose_lists(source.location, _kind(source.location, masks), names))

    def missing_split(self, source: DatasetSource, name: str) -> str:
        """Describe the error that validation alone has a list."""
        return f"{source.location}: no list of images to train on; give `split.train='LIST'` as well as `split.val`"

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        """Read the images of a list, or the annotation files of a split."""
        files = source.splits[split]
        if isinstance(files, list):
            return read_xml(source.tree, files, masks, issues, self.orientation)
        root = source.location
        return read_voc(root, find_ids(root, files, _kind(root, masks)), masks, issues, self.orientation)

    def write(
        self, splits: Mapping[str, DetectionAnnotations], out: Path, place: Callable[[Path, Path], None]
    ) -> ConversionReport:
        """Write Annotations, JPEGImages and the lists of ImageSets/Main; masks are left out."""
        return write_voc(splits, out, place)


def _kind(root: Path, masks: MaskReading) -> str:
    """Folder of the lists of images: not all images with boxes have masks."""
    return "Segmentation" if masks in ("all", "valid") and find_splits(root, "Segmentation") else "Main"


def _unlisted(root: Path, splits: Mapping[str, str | None]) -> list[Issue]:
    """List the label files that no list names."""
    if None in splits.values():
        return []
    labels = Tree(require_folder(root, "annotations"))
    try:
        listed = set().union(*(label_files(labels, find_ids(root, split)) for split in splits.values()))
    except DataError:  # which the reader raises
        return []
    return [unused_label(labels, file, "no list names it") for file in labels.ending(".xml") if file not in listed]
