"""LVIS annotations: COCO's, with classes that were not all searched in each image (Gupta et al. 2019)."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import FAIL_FAST, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.base import AmbiguousFormatError, DatasetFormat, DatasetSource
from detseg.data.formats.coco.layout import MANY, is_lvis
from detseg.data.formats.coco.reader import read_coco
from detseg.data.formats.layout import Tree, by_split

log = logging.getLogger(__name__)

RARE, COMMON = 10, 100  # training images of a rare and a common class, at most; other classes are frequent


class LvisFormat(DatasetFormat):
    """Annotation files of COCO's kind with neg_category_ids; images are COCO's, anywhere in the folder."""

    name = "LVIS"
    tasks = ("detection", "instance_segmentation")
    marks = "COCO's .json, with neg_category_ids"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Collect the annotation files. Raises AmbiguousFormatError for several of the same split."""
        files = tree.ending(".json")
        lvis = [file for file in files if len(files) <= MANY and is_lvis(tree.root / file)]
        if not lvis:
            return []
        parts = by_split(lvis)
        for split, part in parts.items():
            if len(part) > 1:
                several = f"several LVIS files could be the {split} split: {', '.join(part)}"
                raise AmbiguousFormatError(f"{tree.root}: {several}; keep one")
        location = tree.root / lvis[0] if len(lvis) == 1 else tree.root
        splits = {split: tree.root / part[0] for split, part in parts.items()}
        return [DatasetSource(self, tree, location, splits, has_category_ids=True)]

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        """Read the file of a split."""
        return read_lvis(source.tree.root, source.splits[split], masks, issues)


def read_lvis(
    root: Path, file: Path, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
) -> DetectionAnnotations:
    """Read an annotation file; its images are COCO's, which its coco_url names, anywhere below ``root``.

    neg_category_ids and not_exhaustive_category_ids are for the metric ``LvisAP``: ``CocoAP`` counts a detection of a
    class that was not searched in an image as false, and is lower. Raises DataError as ``read_coco``.
    """
    table = read_coco(file, root, masks, issues)
    log.warning(
        "%s: only the metric LvisAP uses neg_category_ids and not_exhaustive_category_ids; CocoAP counts detections of "
        "classes that were not searched in an image as false, and is lower",
        file,
    )
    counts = np.bincount(frequencies(table), minlength=3).tolist()
    log.info("%s: classes by the images of it that they are in: %d rare, %d common, %d frequent", file, *counts)
    return table


def frequencies(annotations: DetectionAnnotations) -> NDArray[np.int64]:
    """Group the classes (K,) by their number of training images: 0 rare, up to 10; 1 common, up to 100; 2 frequent.

    Gupta et al. 2019, section 3.1; LVIS's own groups are those of its training file.
    """
    images = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))
    labels = np.unique(np.stack([images, annotations.labels]), axis=1)[1]
    counts = np.bincount(labels, minlength=len(annotations.classes))
    return np.searchsorted([RARE, COMMON], counts, side="left").astype(np.int64)
