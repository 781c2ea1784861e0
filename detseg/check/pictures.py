"""One look at every image file: its size, its type, whether it can be read, and the numbers in its map of labels."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detseg.data.annotations.images import is_turned
from detseg.errors import DataError

# What Pillow calls the contents that belong to an ending. MPO is how some cameras keep several JPEGs in a file.
TYPES = {
    ".jpg": ("JPEG", "MPO"),
    ".jpeg": ("JPEG", "MPO"),
    ".png": ("PNG",),
    ".bmp": ("BMP", "DIB"),
    ".webp": ("WEBP",),
    ".tif": ("TIFF",),
    ".tiff": ("TIFF",),
}
CHUNK = 64  # images that a process takes at once
FEW, FEW_DECODED = 4000, 200  # images for which starting processes takes longer than looking


class ImageJob(NamedTuple):
    """An image to look at."""

    path: Path
    size: tuple[int, int]  # height and width as labelled, 0 where that is not known
    mask: Path | None = None  # the file with the class of each pixel


class ImageStats(NamedTuple):
    """What was seen of an image."""

    size: tuple[int, int]  # height and width as ``read_image`` gives it, 0 if it cannot
    flaws: list[tuple[str, str]]  # a kind of ``reports.KINDS``, and what there is to say
    numbers: NDArray[np.int64] | None = None  # (256,) pixels with each number in the map of labels


def look_at(images: Sequence[ImageJob], decode: bool, jobs: int, advance: Callable[[], None]) -> list[ImageStats]:
    """Look at images in ``jobs`` processes; ``advance`` is called after each. Only with ``decode`` are pixels read."""
    look = partial(_look, decode=decode)
    found = []
    if jobs == 1 or len(images) < (FEW_DECODED if decode else FEW):
        with warnings.catch_warnings():
            _calm()
            for job in images:
                found.append(look(job))
                advance()
        return found
    # Processes that begin anew: forks of one that has threads can hang.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_calm) as pool:
        for seen in pool.map(look, images, chunksize=CHUNK):
            found.append(seen)
            advance()
    return found


def _calm() -> None:
    """Do without Pillow's warnings: what they say of an image is reported with its path."""
    warnings.simplefilter("ignore")


def _look(job: ImageJob, decode: bool) -> ImageStats:
    numbers, flaws = None, []
    if job.mask is not None:
        from detseg.data.annotations.semantic import read_numbers  # which takes long to import, in every process

        try:
            pixels = read_numbers(job.mask)
            numbers = np.bincount(pixels.ravel(), minlength=256)
            job = job._replace(size=(pixels.shape[0], pixels.shape[1]))
        except DataError as error:
            flaws.append(("label-broken", str(error)))
    try:
        with Image.open(job.path) as image:
            size, found = _describe(image, job)
            if decode:
                found += _decode(image, job.path)
    except FileNotFoundError:
        return ImageStats((0, 0), [*flaws, ("image-missing", f"{job.path}: there is no such file")], numbers)
    except Image.DecompressionBombError as error:
        return ImageStats((0, 0), [*flaws, ("image-bomb", f"{job.path}: {error}")], numbers)
    except Exception as error:  # Pillow meets broken files with many kinds of errors
        reason = getattr(error, "strerror", None) or error
        return ImageStats(
            (0, 0), [*flaws, ("image-unreadable", f"{job.path}: cannot read this image: {reason}")], numbers
        )
    return ImageStats(size, flaws + found, numbers)


def _describe(image: Image.Image, job: ImageJob) -> tuple[tuple[int, int], list[tuple[str, str]]]:
    """The size that ``read_image`` gives, and what the head of a file says that is worth knowing."""
    path, flaws = job.path, []
    stored = image.height, image.width
    turned = stored[::-1] if is_turned(image) else stored
    size = turned
    if 0 not in job.size and job.size != turned:
        seen, labelled = (f"{width}x{height}" for height, width in (turned, job.size))
        if job.size == stored:
            size = stored
            flaws.append(("image-rotated", f"{path}: is {seen} as viewers turn it, its labels are for {labelled}"))
        else:
            flaws.append(("image-size", f"{path}: is {seen}, its labels are for {labelled} (width x height)"))
    kinds = TYPES.get(path.suffix.lower())
    if kinds and image.format not in kinds:
        flaws.append(("image-type", f"{path}: is a file of type {image.format}"))
    if image.mode.startswith(("I", "F")) or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        flaws.append(("image-16bit", f"{path}: has 16 bits or more for each colour"))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        flaws.append(("image-alpha", f"{path}: has transparency (mode {image.mode})"))
    if image.mode == "CMYK":
        flaws.append(("image-cmyk", f"{path}: has colours of print (mode CMYK)"))
    return size, flaws


def _decode(image: Image.Image, path: Path) -> list[tuple[str, str]]:
    """Read all of a file. Of a JPEG an eighth of the pixels is made: the whole file is gone through all the same."""
    image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
    try:
        image.load()
    except Exception as error:  # as above
        short = any(word in str(error).lower() for word in ("truncated", "too small", "incomplete", "premature"))
        kind = "image-truncated" if short else "image-unreadable"
        return [(kind, f"{path}: cannot decode this image: {error}")]
    return []
