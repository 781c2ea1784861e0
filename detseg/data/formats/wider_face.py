"""WIDER FACE's lists of faces (Yang et al. 2016)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import FAIL_FAST, AnnotationError, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.base import DatasetFormat, DatasetSource, label_source
from detseg.data.formats.layout import Tree, read_text
from detseg.data.formats.reading import TableReader
from detseg.data.formats.shapes import parse_numbers
from detseg.errors import DataError

FILE = re.compile(r"wider_face_(train|val)_bbx_gt\.txt$")
CLASS = "face"
COLUMNS = 10  # x, y, width, height, blur, expression, illumination, invalid, occlusion, pose (its readme.txt)
INVALID = 7


class WiderFaceFormat(DatasetFormat):
    """Folders wider_face_split, WIDER_train and WIDER_val; the labels of the test images are not public."""

    name = "WIDERFACE"
    tasks = ("detection",)
    marks = "wider_face_train_bbx_gt.txt"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Collect the lists of faces."""
        files = [file for file in tree.ending(".txt") if FILE.search(file)]
        return label_source(self, tree, files)

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        """Read the list of a split."""
        reader = TableReader(source.tree, issues, self.orientation)
        return read_wider_face(reader, source.splits[split]).with_masks(masks, {}, issues)


def read_wider_face(reader: TableReader, files: list[str]) -> DetectionAnnotations:
    """Read lists, paths relative to the root of the reader's tree; faces marked as invalid are left out and counted.

    Raises DataError, naming file and line.
    """
    for name in files:
        for title, start, faces in reader.parse(name, _images) or []:
            match = FILE.search(name)
            assert match
            image = reader.image(name, f"WIDER_{match[1]}/images/{title}")
            if image is None:
                continue
            for number, line in enumerate(faces, start=start):
                with reader.located(name, f"line {number}", image):
                    values = line.split()
                    if len(values) != COLUMNS:
                        raise AnnotationError("label-broken", f"has {len(values)} numbers; a face has {COLUMNS}")
                    x, y, width, height, *flags = parse_numbers(values, "values")
                    if flags[INVALID - 4]:
                        reader.leave_out(name, "faces marked as invalid are left out", kind="label-unused")
                    else:
                        reader.builder.add(image, CLASS, (x, y, x + width, y + height), math.nan)
    return reader.table({CLASS: 1})


def _images(file: Path) -> list[tuple[str, int, list[str]]]:
    """Parse the images, each with the number of the line of its first face and the lines of its faces.

    Raises DataError for a missing count, and for a file that is cut off.
    """
    return [*_split(file, read_text(file).splitlines())]


def _split(file: Path, lines: list[str]) -> Iterator[tuple[str, int, list[str]]]:
    place = 0
    while place < len(lines):
        title = lines[place].strip()
        place += 1
        if not title:
            continue
        text = lines[place].strip() if place < len(lines) else ""
        if not re.fullmatch("[0-9]{1,6}", text):
            raise DataError(f"{file}: line {place + 1} is {text!r}, but must be the number of faces of {title}")
        faces = lines[place + 1 : place + 1 + int(text)]
        if len(faces) < int(text):
            raise DataError(f"{file}: is cut off: {title} has {text} faces, but {len(faces)} lines follow")
        yield title, place + 2, faces
        place += 1 + len(faces)
        if not faces and place < len(lines) and re.fullmatch(r"[0 ]+", lines[place]):
            place += 1  # an image without a face has a line of zeros
