"""Checks of image files: size, type, readability, and the values of their semantic masks."""

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

from detseg.data.annotations.images import (
    FILE_TYPES,
    ImageTooLargeError,
    Orientation,
    check_depth,
    open_image,
    read_orientation,
    sizes_of,
)
from detseg.errors import DataError

CHUNK_SIZE = 64  # images per task of a process
MIN_IMAGES, MIN_DECODED = 4000, 200  # fewer images take less time than starting processes


class ImageJob(NamedTuple):
    """An image file to check."""

    path: Path
    size: tuple[int, int]  # height and width in the labels, 0 if unknown
    orientation: Orientation  # of the labels, where no size tells
    mask: Path | None = None  # semantic mask file


class ImageStats(NamedTuple):
    """Size, issues and mask values of an image file."""

    size: tuple[int, int]  # height and width as ``read_image`` returns it, 0 if unreadable
    issues: list[tuple[str, str]]  # kind (of ``issues.KINDS``) and message
    value_counts: NDArray[np.int64] | None = None  # (256,) pixels with each value in the semantic mask


def check_images(images: Sequence[ImageJob], decode: bool, jobs: int, advance: Callable[[], None]) -> list[ImageStats]:
    """Check image files in ``jobs`` processes; call ``advance`` after each. Read pixels only with ``decode``."""
    check = partial(_check_image, decode=decode)
    stats = []
    if jobs == 1 or len(images) < (MIN_DECODED if decode else MIN_IMAGES):
        with warnings.catch_warnings():
            _ignore_warnings()
            for job in images:
                stats.append(check(job))
                advance()
        return stats
    # Start new processes: forks of a process with threads can hang.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_ignore_warnings) as pool:
        for result in pool.map(check, images, chunksize=CHUNK_SIZE):
            stats.append(result)
            advance()
    return stats


def _ignore_warnings() -> None:
    """Silence Pillow's warnings: the check reports the same with the path of the image."""
    warnings.simplefilter("ignore")


def _check_image(job: ImageJob, decode: bool) -> ImageStats:
    value_counts, issues = None, []
    if job.mask is not None:
        from detseg.data.annotations.semantic import read_semantic_mask  # a slow import, in every process

        try:
            pixels = read_semantic_mask(job.mask)
            value_counts = np.bincount(pixels.ravel(), minlength=256)
            job = job._replace(size=(pixels.shape[0], pixels.shape[1]))
        except DataError as error:
            issues.append(("label-broken", str(error)))
    size = (0, 0)
    if not job.path.exists():
        return ImageStats(size, [*issues, ("image-missing", f"{job.path}: no such image")], value_counts)
    try:
        with open_image(job.path) as image:
            check_depth(job.path, image)
            header_size, header_issues = _check_header(image, job)
            if decode:
                header_issues += _check_pixels(image, job.path)
        size, issues = header_size, issues + header_issues
    except ImageTooLargeError as error:
        issues.append(("image-bomb", str(error)))
    except DataError as error:
        issues.append(("image-unreadable", str(error)))
    except Exception as error:  # Pillow raises many types of errors for broken files
        reason = getattr(error, "strerror", None) or error
        issues.append(("image-unreadable", f"{job.path}: cannot read this image: {reason}"))
    return ImageStats(size, issues, value_counts)


def _check_header(image: Image.Image, job: ImageJob) -> tuple[tuple[int, int], list[tuple[str, str]]]:
    """Return the size as ``read_image`` returns it, and the issues that the header of the file shows."""
    path, issues = job.path, []
    sizes, which = sizes_of(image), job.orientation
    if 0 not in job.size and job.size != sizes[which]:
        actual, labelled = (f"{width}x{height}" for height, width in (sizes["shown"], job.size))
        which = "stored" if which == "shown" else "shown"
        if job.size != sizes[which]:
            issues.append(("image-size", f"{path}: is {actual}, its labels are for {labelled} (width x height)"))
    size = sizes[which]
    if read_orientation(image) and which == "stored":
        issues.append(("image-rotated", f"{path}: viewers turn it, its labels are for the {size[1]}x{size[0]} stored"))
    elif read_orientation(image) and sizes["shown"] == sizes["stored"]:
        hint = "its labels are taken to be for the image as shown; if not, set `format.orientation='stored'`"
        issues.append(("image-turned", f"{path}: viewers mirror it or turn it upside down; {hint}"))
    types = FILE_TYPES.get(path.suffix.lower())
    if types and image.format not in types:
        issues.append(("image-type", f"{path}: is a {image.format} file"))
    if image.mode.startswith(("I", "F")) or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        issues.append(("image-16bit", f"{path}: has 16 or more bits per channel"))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        issues.append(("image-alpha", f"{path}: has transparency (mode {image.mode})"))
    if image.mode == "CMYK":
        issues.append(("image-cmyk", f"{path}: has print colours (mode CMYK)"))
    return size, issues


def _check_pixels(image: Image.Image, path: Path) -> list[tuple[str, str]]:
    """Decode a file to its end. Of a JPEG only an eighth of the size is computed, from all of the file."""
    image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
    try:
        image.load()
    except Exception as error:  # as above
        truncated = any(word in str(error).lower() for word in ("truncated", "too small", "incomplete", "premature"))
        kind = "image-truncated" if truncated else "image-unreadable"
        return [(kind, f"{path}: cannot decode this image: {error}")]
    return []
