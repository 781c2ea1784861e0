"""Training and validation parts of a data set, and random splits of one that has none."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.table import ImageTable
from detseg.errors import ConfigError, DataError

Split = Literal["train", "val"]


def group_identical(files: Sequence[Path]) -> list[list[int]]:
    """Group the positions of files that are the same byte by byte. Only files of equal size are read.

    A file that cannot be read forms a group of its own: whoever needs it reports the error.
    """
    sizes: dict[int, list[int]] = defaultdict(list)
    groups: dict[tuple[int, str], list[int]] = defaultdict(list)
    for position, file in enumerate(files):
        try:
            sizes[file.stat().st_size].append(position)
        except OSError:
            groups[-1, str(position)].append(position)
    for size, positions in sizes.items():
        for position in positions:
            try:
                digest = hashlib.sha256(files[position].read_bytes()).hexdigest() if len(positions) > 1 else ""
            except OSError:
                digest = str(position)
            groups[size, digest].append(position)
    return sorted(groups.values())


def split_indices(
    count: int, fraction: float, split: Split, seed: int = 0, groups: Sequence[Sequence[int]] | None = None
) -> NDArray[np.int64]:
    """Draw the indices of one side of a random split of ``count`` images; each side gets at least one of two or more.

    The images of one of ``groups`` (at least two groups) stay on one side; by default each image is its own group.
    Raises ConfigError for a ``fraction`` for validation that is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"split.val_fraction: {fraction} must be above 0 and below 1, such as 0.2")
    groups = [[index] for index in range(count)] if groups is None else groups
    wanted = min(max(round(count * fraction), 1), count - 1)
    held_out: list[int] = []
    for number in np.random.default_rng(seed).permutation(len(groups)):
        if len(held_out) + len(groups[number]) <= wanted:
            held_out += groups[number]
    if wanted and not held_out:
        smallest: Sequence[int] = min(groups, key=len)
        held_out += smallest
    chosen = np.isin(np.arange(count), held_out)
    return np.flatnonzero(chosen if split == "val" else ~chosen)


def train_val_split(images: ImageTable, fraction: float, seed: int, split: Split) -> NDArray[np.int64]:
    """Draw the indices of one side of a split by ``seed``; images that are the same byte by byte stay on one side.

    Raises DataError if all images are the same, and ConfigError as ``split_indices`` does.
    """
    files = [images.path(index) for index in range(len(images))]
    if not files:
        raise DataError(f"{images.root}: its labels are of no image, and cannot be split")
    groups = group_identical(files)
    if len(groups) == 1 < len(files):
        raise DataError(f"{images.root}: its {len(files)} images are the same byte by byte, and cannot be split")
    return split_indices(len(files), fraction, split, seed, groups)
