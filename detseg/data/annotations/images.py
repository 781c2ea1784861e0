"""Reading image files: the one place that decides how a file becomes pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.issues import FAIL_FAST, IssueCollector
from detseg.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

# Suffixes of the files that are images, with Pillow's names of their types; cameras store several JPEGs as MPO.
FILE_TYPES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), ("JPEG", "MPO")),
    ".png": ("PNG",),
    **dict.fromkeys((".bmp", ".dib"), ("BMP", "DIB")),
    ".webp": ("WEBP",),
    **dict.fromkeys((".tif", ".tiff"), ("TIFF",)),
}
SUFFIXES = tuple(FILE_TYPES)
ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 swap width and height

cv2.setNumThreads(0)  # the worker processes are the parallelism; threads inside them would only compete


def read_image(path: Path, size: tuple[int, int] | None = None, labels: Path | None = None) -> NDArray[np.uint8]:
    """Read an image as (h, w, 3) uint8 RGB, turned as its EXIF orientation says.

    ``size`` is the height and width that the labels were made for, ``labels`` their file. Labels of an image with an
    orientation may be for the pixels as stored; then those are returned. Raises DataError for a file that is missing,
    is no image, or has another size either way.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot read this image: {error.strerror}") from None
    try:
        image = _decode(content, cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:  # more pixels than OpenCV reads
        raise DataError(f"{path}: cannot decode this image: {error.err}; make it smaller, or leave it out") from None
    if image is None:
        raise DataError(f"{path}: not an image, or a damaged one; replace the file or leave it out")
    if size is None or image.shape[:2] == size:
        return image
    stored = _decode(content, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if stored is not None and stored.shape[:2] == size:
        return stored
    height, width = image.shape[:2]
    raise DataError(
        f"{path}: the image is {width}x{height} but {labels or 'its annotation'} says {size[1]}x{size[0]} "
        "(width x height); its labels may be for another version of the picture: put the right file there or correct "
        "the annotation"
    )


def image_size(path: Path, issues: IssueCollector = FAIL_FAST) -> tuple[int, int]:
    """Return the height and width that ``read_image`` gives, from the head of the file.

    Raises DataError as ``read_image`` does; where ``issues`` collects, an unreadable file has the size (0, 0).
    """
    return image_sizes(path, issues)[0]


def image_sizes(path: Path, issues: IssueCollector = FAIL_FAST) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return height and width of an image as viewers show it, and as it is stored, as ``image_size`` does."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            stored = image.height, image.width
            return (image.width, image.height) if is_turned(image) else stored, stored
    except OSError as error:
        message = f"{path}: cannot read this image: {error.strerror or error}"
    except Image.DecompressionBombError as error:
        message = f"{path}: cannot read this image: {error}; make it smaller, or leave it out"
    issues.report("image-unreadable", path, message)
    return (0, 0), (0, 0)


def is_turned(image: Image.Image) -> bool:
    """Tell if an EXIF orientation swaps width and height, without reading pixels (as Pillow would for a PNG)."""
    from PIL import Image

    return bool(Image.Image.getexif(image).get(ORIENTATION, 1) >= 5)


def _decode(content: NDArray[np.uint8], flags: int) -> NDArray[np.uint8] | None:
    """Decode an image file; None for other files."""
    return cast("NDArray[np.uint8] | None", cv2.imdecode(content, flags)) if content.size else None
