"""LVIS annotations: COCO's, of many classes of which not all were looked for in each image (Gupta et al. 2019)."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.builder import Source
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.coco.layout import MANY, is_lvis
from detseg.data.formats.coco.reader import read_coco
from detseg.data.formats.layout import Tree, by_split
from detseg.errors import DataError

log = logging.getLogger(__name__)

RARE, COMMON = 10, 100  # in at most so many training images is a class rare, common; in more it is frequent


def find_lvis(tree: Tree, masks: MaskReading = "none") -> list[Source]:
    """The annotation files of LVIS in a folder. Raises DataError where several could be the same split."""
    files = tree.ending(".json")
    found = [file for file in files if len(files) <= MANY and is_lvis(tree.root / file)]
    if not found:
        return []
    parts = by_split(found)
    for word, part in parts.items():
        if len(part) > 1:
            raise DataError(f"{tree.root}: several LVIS files could be the {word} split: {', '.join(part)}; keep one")
    read = {word: partial(read_lvis, tree.root, tree.root / part[0], masks) for word, part in parts.items()}
    return [Source("LVIS", tree.root / found[0] if len(found) == 1 else tree.root, read, numbered=True)]


def read_lvis(root: Path, file: Path, masks: MaskReading = "none") -> DetectionAnnotations:
    """Read an annotation file; its images are COCO's, which its coco_url names, anywhere below ``root``.

    Which classes were looked for in an image (neg_category_ids, not_exhaustive_category_ids) is not used: an
    evaluation counts a detection of a class that nobody looked for as wrong, and its AP is below that of LVIS's own
    rules. Raises DataError as ``read_coco`` does.
    """
    found = read_coco(file, root, masks)
    log.warning(
        "%s: neg_category_ids and not_exhaustive_category_ids are not used: detections of classes that were not looked "
        "for count as wrong, and AP is below that of LVIS's own rules",
        file,
    )
    counts = np.bincount(frequencies(found), minlength=3).tolist()
    log.info("%s: classes by the images of it that they are in: %d rare, %d common, %d frequent", file, *counts)
    return found


def frequencies(annotations: DetectionAnnotations) -> NDArray[np.int64]:
    """The group of each class (K,) by its number of training images: 0 rare, up to 10; 1 common, up to 100; 2 frequent.

    Gupta et al. 2019, section 3.1; LVIS's own groups are those of its training file.
    """
    images = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))
    labels = np.unique(np.stack([images, annotations.labels]), axis=1)[1]
    counts = np.bincount(labels, minlength=len(annotations.classes))
    return np.searchsorted([RARE, COMMON], counts, side="left").astype(np.int64)
