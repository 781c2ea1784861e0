"""Interface of dataset formats."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from detseg.configurable import Configurable
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.images import Orientation
from detseg.data.annotations.issues import FAIL_FAST, FailFastSummary, Issue, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.annotations.semantic import SemanticAnnotations
from detseg.data.annotations.table import ClassificationIndex
from detseg.data.formats.layout import WHOLE as WHOLE
from detseg.data.formats.layout import Tree, by_split, in_label_place, unused_label, unused_split
from detseg.errors import DataError

Task = Literal["detection", "instance_segmentation", "semantic_segmentation", "classification"]
Annotations = DetectionAnnotations | SemanticAnnotations | ClassificationIndex

NO_NAMES: Mapping[str, str] = {}


@dataclass(frozen=True, eq=False)
class DatasetSource:
    """A data set that a format has detected in a folder, or a near miss."""

    format: DatasetFormat
    tree: Tree
    location: Path  # label file or folder by which it was recognised
    splits: Mapping[str, Any]  # by "train", "val", "test", or "all" if it is not split: values for the format to read
    has_category_ids: bool = False  # the data set numbers its classes
    problem: str = ""  # of a near miss: the reason why it cannot be read
    issues: Sequence[Issue] = ()  # of the folder as a whole

    def read(self, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST) -> Annotations:
        """Read a split, as ``DatasetFormat.read`` does; without ``issues``, log the number of warnings of each kind."""
        if issues is not FAIL_FAST:
            return self._read(split, masks, issues)
        summary = FailFastSummary()
        for issue in self.issues:
            if issue.severity == "error":
                raise DataError(issue.message)
        table = self._read(split, masks, summary)
        summary.log(self.tree.root)
        return table

    def _read(self, split: str, masks: MaskReading, issues: IssueCollector) -> Annotations:
        return replace(self.format.read(self, split, masks, issues), orientation=self.format.orientation)

    def __str__(self) -> str:
        return self.format.name if self.location == self.tree.root else f"{self.format.name} in {self.location}"


def label_source(
    format: DatasetFormat,
    tree: Tree,
    labels: Collection[str],
    per_image: bool = False,
    has_category_ids: bool = False,
    location: Path | None = None,
) -> list[DatasetSource]:
    """Return the source of label files by their splits, which reports those that no split uses; none for no labels.

    Files in the place of labels count, whatever is in them: in that of a split, and with ``per_image`` those of an
    image in the same folder, or in a folder of labels.
    """
    if not labels:
        return []
    suffixes = {os.path.splitext(label)[1].lower() for label in labels} - {""}
    files = sorted({*labels, *in_label_place(tree.ending(*suffixes), labels, tree if per_image else None)})
    splits = by_split(files, per_image)
    used = set().union(*splits.values())
    unused = [unused_label(tree, file) for file in files if file not in used]
    unused += unused_split(tree, files) if WHOLE in splits else []
    return [DatasetSource(format, tree, location or tree.root, splits, has_category_ids, issues=unused)]


@dataclass
class ConversionReport:
    """Counts of annotations that a written format cannot represent, by description."""

    losses: Counter[str] = field(default_factory=Counter)


class DatasetFormat(Configurable):
    """Format of a data set. Subclasses name it, and say how to detect and read it; arguments are its options.

    ``orientation`` tells if the labels of images with an EXIF orientation are for the image as viewers show it, or for
    the pixels as stored, where no size in the labels tells. A format becomes known to the whole package by an entry in
    ``detseg.data.formats.FORMATS``.
    """

    name: ClassVar[str]
    tasks: ClassVar[tuple[Task, ...]]
    marks: ClassVar[str]  # description of the files by which it is recognised
    orientation: Orientation = "shown"

    def __init__(self, orientation: Orientation = "shown") -> None:
        self.orientation = orientation

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """List the data sets of this format in a folder, and near misses with the problem.

        Raises DataError for a data set of this format that is ambiguous.
        """
        raise NotImplementedError

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> Annotations:
        """Read a split of a source. Raises DataError for broken labels, unless ``issues`` collects them."""
        raise NotImplementedError

    def write(
        self, splits: Mapping[str, DetectionAnnotations], out: Path, place: Callable[[Path, Path], None]
    ) -> ConversionReport:
        """Write all splits, which have the same classes, to the empty folder ``out``; optional.

        ``place(source, target)`` puts an image file there. Raises DataError for labels that the format cannot hold.
        """
        raise NotImplementedError(f"{self.name} cannot be written")

    @property
    def can_write(self) -> bool:
        """Tell if the format implements ``write``."""
        return type(self).write is not DatasetFormat.write

    def open(self, root: Path, names: Mapping[str, str] = NO_NAMES) -> DatasetSource:
        """Open a folder that is known to be of this format; ``names`` are the user's names of its splits.

        Raises DataError if the folder holds no such data set, or several.
        """
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; give the folder of your data as root")
        detected = self.detect(Tree(root))
        sources = [source for source in detected if not source.problem]
        if len(sources) == 1:
            return sources[0]
        if sources:
            raise AmbiguousFormatError(f"{root}: it holds labels more than once: {'; '.join(map(str, sources))}")
        problems = "".join(f"; {source.problem}" for source in detected)
        raise DataError(f"{root}: no {self.name} data set: {self.marks} not found{problems}")

    def select(self, source: DatasetSource, names: Mapping[str, str], masks: MaskReading) -> DatasetSource:
        """Choose the splits that the user names, and those with ``masks``. Raises DataError for an unknown name."""
        splits = dict(source.splits)
        for split, name in names.items():
            if name not in source.splits:
                raise DataError(self.missing_split(source, name))
            splits[split] = source.splits[name]
        return replace(source, splits=splits)

    def missing_split(self, source: DatasetSource, name: str) -> str:
        """Describe the error that a source has no split of this name."""
        there = f"it has no split {name}, but {', '.join(source.splits)}"
        return f"{source.tree.root}: {there}; choose with `split.train='NAME'` and `split.val='NAME'`"


class AmbiguousFormatError(DataError):
    """Several data sets in a folder."""
