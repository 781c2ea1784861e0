"""Shared parts of the writers: names of images, and links to their files."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping
from itertools import chain, count
from pathlib import Path

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.images import SUFFIXES
from detseg.errors import DataError

DIGITS = 9  # decimals of a pixel: more are the noise of taking 1 off and adding it again


def image_names(splits: Mapping[str, DetectionAnnotations]) -> dict[str, list[str]]:
    """Choose unique file names for the images of each split. Raises DataError for one without the suffix of an image.

    A name that occurs twice gets its folders in front, and a number behind if that is not enough. Case is ignored, as
    some file systems do.
    """
    files = {split: [Path(str(file)) for file in table.files] for split, table in splits.items()}
    for file in chain.from_iterable(files.values()):
        if file.suffix.lower() not in SUFFIXES:
            raise DataError(
                f"{file}: its suffix is none of {', '.join(SUFFIXES)}; rename it, here and in its label file"
            )
    stems = Counter(file.stem.lower() for part in files.values() for file in part)
    taken = {stem for stem, count in stems.items() if count == 1}

    def name_of(split: str, file: Path) -> str:
        if stems[file.stem.lower()] == 1:
            return file.name
        start, suffix = os.path.splitext("_".join([split, *file.parts]))
        stem, numbers = start, count(2)
        while stem.lower() in taken:
            stem = f"{start}_{next(numbers)}"
        taken.add(stem.lower())
        return stem + suffix

    return {split: [name_of(split, file) for file in part] for split, part in files.items()}


def link_image(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system has no links. Raises DataError if it is missing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except FileNotFoundError:
        raise DataError(f"{source}: there is no such image") from None
    except OSError:
        copy_image(source, target)


def copy_image(source: Path, target: Path) -> None:
    """Copy a file. Raises DataError if it is missing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        raise DataError(f"{source}: there is no such image") from None
