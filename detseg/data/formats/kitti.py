"""KITTI's labels of objects (Geiger et al. 2012): a text file for each image, a line for each object."""

from __future__ import annotations

import math
import re
from pathlib import PurePosixPath

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import FAIL_FAST, AnnotationError, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.base import DatasetFormat, DatasetSource, label_source
from detseg.data.formats.layout import Tree, read_text, unused_label
from detseg.data.formats.reading import TableReader, label_folders
from detseg.data.formats.shapes import parse_numbers
from detseg.data.formats.voc.layout import read_list

LINE = re.compile(rb"\s*[A-Za-z]\S*( -?[\d.]+(e[-+]?\d+)?){14,15}\s*")  # the last is the score of a detection
COLUMNS = 15  # type, truncated, occluded, alpha, left, top, right, bottom, 3 dimensions, 3 coordinates, rotation
BOX = slice(4, 8)
IGNORED = "DontCare"


class KittiFormat(DatasetFormat):
    """Folders training/image_2 and training/label_2; other folders of label files in KITTI's columns will do.

    Splits are the names of folders, or the lists ImageSets/train.txt and val.txt if there are any.
    """

    name = "KITTI"
    tasks = ("detection", "instance_segmentation")
    marks = "label_2 with a .txt of 15 columns for each image"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Collect the label files of the folders in which one begins with KITTI's columns."""
        files = label_folders(tree, LINE)
        splits = _listed(tree, files)
        if not all(splits.values()):
            return label_source(self, tree, files, per_image=True)
        used = set().union(*splits.values())
        unused = [unused_label(tree, file, "no list names it") for file in files if file not in used]
        return [DatasetSource(self, tree, tree.root, splits, issues=unused)]

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        """Read the label files of a split."""
        reader = TableReader(source.tree, issues, self.orientation)
        return read_kitti(reader, source.splits[split]).with_masks(masks, {}, issues)


def _listed(tree: Tree, files: list[str]) -> dict[str, list[str]]:
    """Split label files by the lists in ImageSets; into two empty parts where there are no such lists."""
    parts = {}
    for split in ("train", "val"):
        stems = {stem for file in tree.ending(f"imagesets/{split}.txt") for stem in read_list(tree.root / file)}
        parts[split] = [file for file in files if PurePosixPath(file).stem in stems]
    return parts


def read_kitti(reader: TableReader, files: list[str]) -> DetectionAnnotations:
    """Read label files, paths relative to the root of the reader's tree; a DontCare region is a crowd of every class.

    The classes are the sorted types. Raises DataError, naming file and line.
    """
    for name in files:
        text = reader.parse(name, read_text)
        image = None if text is None else reader.image(name, near=name.replace("label_2", "image_2"))
        if text is None or image is None:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            values = line.split()
            if not values:
                continue
            with reader.located(name, f"line {number}", image):
                if len(values) not in (COLUMNS, COLUMNS + 1):
                    raise AnnotationError("label-broken", f"has {len(values)} columns; KITTI's labels have {COLUMNS}")
                x1, y1, x2, y2 = parse_numbers(values[BOX], "corners")
                if values[0] == IGNORED:
                    reader.ignore(image, (x1, y1, x2, y2))
                else:
                    reader.builder.add(image, values[0], (x1, y1, x2, y2), math.nan)
    return reader.table()
