"""Images that the validation shares with the training split, byte by byte or nearly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detseg.data.near_duplicates import SIDE, near_duplicates
from detseg.data.splits import group_identical
from detseg.report.evaluation import DetectionRun

MAX_FILES = 20_000  # whose bytes are compared, if their sizes agree
MAX_VAL, MAX_TRAIN = 200, 1000  # images that are decoded for a comparison of their looks


def shared_images(run: DetectionRun) -> tuple[list[int], float]:
    """The evaluated images that are in the training split, and their share of those that were compared."""
    train = run.train
    if train is None or not len(run.rows):
        return [], 0.0
    val = [run.path(image) for image in range(len(run.rows))]
    paths = [train.path(row) for row in range(len(train))]
    if {*map(str, val)} == {*map(str, paths)}:  # evaluated on the training split on purpose
        return [], 0.0
    shared: set[int] = set()
    if len(val) + len(paths) <= MAX_FILES:
        for group in group_identical([*val, *paths]):
            if group[-1] >= len(val):
                shared |= {one for one in group if one < len(val)}
    chosen, others = (
        np.unique(np.linspace(0, many - 1, min(many, most)).astype(int)).tolist()
        for many, most in ((len(val), MAX_VAL), (len(paths), MAX_TRAIN))
    )
    known = _thumbnails([paths[row] for row in others])
    pairs = near_duplicates(np.concatenate([known, _thumbnails([val[image] for image in chosen])]))
    alike = {chosen[pair.second - len(known)] for pair in pairs if pair.first < len(known) <= pair.second}
    return sorted(shared | alike), max(len(shared) / len(val), len(alike) / len(chosen))


def _thumbnails(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Small copies (N, s, s, 3) of images; those of unreadable ones are black, and resemble none."""
    thumbnails = np.zeros((len(paths), SIDE, SIDE, 3), np.uint8)
    for row, path in enumerate(paths):
        try:
            with Image.open(path) as image:
                image.draft("RGB", (4 * SIDE, 4 * SIDE))
                thumbnails[row] = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))
        except Exception:  # any failure to decode, which the evaluation has reported
            continue
    return thumbnails
