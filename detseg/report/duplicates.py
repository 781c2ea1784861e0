"""Images that the validation shares with the training split, byte by byte or nearly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detseg.data.splits import group_identical
from detseg.report.evaluation import DetectionRun

MAX_FILES = 20_000  # whose bytes are compared, if their sizes agree
MAX_VAL, MAX_TRAIN = 200, 1000  # images that are decoded for a comparison of their looks
SIDE = 16  # of the difference hash
MAX_DISTANCE = 20  # bits of 256


def shared_images(run: DetectionRun) -> tuple[list[int], int]:
    """The evaluated images that are in the training split, and the number of images that were compared."""
    train = run.train
    if train is None:
        return [], 0
    val = [run.path(image) for image in range(len(run.rows))]
    paths = [train.path(row) for row in range(len(train))]
    if {*map(str, val)} == {*map(str, paths)}:  # evaluated on the training split on purpose
        return [], len(val)
    shared: set[int] = set()
    if len(val) + len(paths) <= MAX_FILES:
        for group in group_identical([*val, *paths]):
            if group[-1] >= len(val):
                shared |= {one for one in group if one < len(val)}
    chosen, others = (
        np.unique(np.linspace(0, many - 1, min(many, most)).astype(int)).tolist()
        for many, most in ((len(val), MAX_VAL), (len(paths), MAX_TRAIN))
    )
    hashes = [(image, difference_hash(val[image])) for image in chosen]
    known = [one for one in (difference_hash(paths[row]) for row in others) if one is not None]
    if known:
        table = np.stack(known)
        shared |= {
            image for image, one in hashes if one is not None and (table != one).sum(axis=1).min() <= MAX_DISTANCE
        }
    return sorted(shared), len(val)


def difference_hash(path: object) -> NDArray[np.bool_] | None:
    """Signs (256,) of the differences of neighbouring grey pixels; None for a flat or unreadable image."""
    try:
        with Image.open(str(path)) as image:
            image.draft("L", (4 * SIDE, 4 * SIDE))
            grey = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), dtype=np.int16)
    except Exception:  # any failure to decode
        return None
    differences = np.diff(grey, axis=1)
    return None if np.abs(differences).mean() < 2 else (differences > 0).ravel()
