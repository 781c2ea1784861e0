"""VisDrone-DET's labels (Zhu et al. 2018): a text file for each image, a line of eight numbers for each object."""

from __future__ import annotations

import math
import re

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import FAIL_FAST, AnnotationError, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.base import DatasetFormat, DatasetSource, label_source
from detseg.data.formats.layout import Tree, read_text
from detseg.data.formats.reading import TableReader, label_folders
from detseg.data.formats.shapes import parse_numbers

LINE = re.compile(rb"\s*\d+(,-?\d+){7},?\s*")
CLASSES = (
    *("pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle", "awning-tricycle", "bus", "motor"),
)  # categories 1 to 10
IGNORED, OTHERS = 0, 11


class VisDroneFormat(DatasetFormat):
    """Folders images and annotations, as in VisDrone2019-DET-train; the names of folders are the splits."""

    name = "VisDrone"
    tasks = ("detection",)
    marks = "annotations with a .txt of 8 numbers for each object"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Collect the label files in the folders called annotations in which one begins with VisDrone's columns."""
        files = label_folders(tree, LINE, "annotations")
        return label_source(self, tree, files, per_image=True, has_category_ids=True)

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        """Read the files of a split."""
        reader = TableReader(source.tree, issues, self.orientation)
        return read_visdrone(reader, source.splits[split]).with_masks(masks, {}, issues)


def read_visdrone(reader: TableReader, files: list[str]) -> DetectionAnnotations:
    """Read files, paths relative to the root of the reader's tree. The classes are the ten of the benchmark.

    An ignored region is a crowd of every class, an object with the score 0, which the benchmark ignores, one of its
    own. The category "others", which it does not evaluate, is left out and counted. Raises DataError, naming file and
    line.
    """
    for name in files:
        text = reader.parse(name, read_text)
        image = None if text is None else reader.image(name)
        if text is None or image is None:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            values = line.strip().rstrip(",").split(",")
            if values == [""]:
                continue
            with reader.located(name, f"line {number}", image):
                if len(values) != 8:
                    raise AnnotationError("label-broken", f"has {len(values)} numbers; VisDrone's labels have 8")
                x, y, width, height, score, category, *_ = parse_numbers(values, "values")
                box = (x, y, x + width, y + height)
                if category == IGNORED:
                    reader.ignore(image, box)
                elif category == OTHERS:
                    reader.leave_out(name, "objects of the category others are left out", kind="label-unused")
                elif category in range(1, len(CLASSES) + 1):
                    reader.builder.add(image, CLASSES[int(category) - 1], box, math.nan, crowd=score == 0)
                else:
                    raise AnnotationError("category-unknown", f"has the category {category:g}; they go from 0 to 11")
    return reader.table({name: number for number, name in enumerate(CLASSES, start=1)})
