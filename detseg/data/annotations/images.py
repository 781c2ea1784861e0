"""Reading image files: the one place that decides how a file becomes pixels."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.issues import FAIL_FAST, IssueCollector
from detseg.errors import ConfigError, DataError, explain_content

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
MAX_PIXELS = 178_956_970  # of an image: half a gigabyte as RGB, and the limit of Pillow
MAX_PIXELS_VARIABLE = "DETSEG_MAX_IMAGE_PIXELS"  # environment variable that changes it, also for worker processes
COLOUR_MODES = ("RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr")

cv2.setNumThreads(0)  # the worker processes are the parallelism; threads inside them would only compete


class ImageTooLargeError(DataError):
    """An image of more pixels than are decoded."""


def max_pixels() -> int:
    """Return the number of pixels up to which images are decoded. Raises ConfigError for an invalid setting."""
    value = os.environ.get(MAX_PIXELS_VARIABLE, str(MAX_PIXELS))
    if not value.isdecimal() or int(value) < 1:
        raise ConfigError(f"{MAX_PIXELS_VARIABLE}: {value!r} must be a number of pixels, such as {MAX_PIXELS}")
    return int(value)


def check_pixels(path: Path, pixels: int, size: str = "") -> None:
    """Raise ImageTooLargeError for a file whose image has more ``pixels`` than are decoded."""
    if pixels > (limit := max_pixels()):
        raise ImageTooLargeError(
            f"{path}: the image has {size}{pixels:,} pixels, more than the limit of {limit:,}; make it smaller, leave "
            f"it out, or set the environment variable {MAX_PIXELS_VARIABLE}={pixels} if it really has this size"
        )


@contextmanager
def open_image(path: Path, content: NDArray[np.uint8] | None = None) -> Iterator[Image.Image]:
    """Open an image with Pillow, which reads the head of the file and no pixels. ``content`` is that of the file.

    Raises DataError for a file that is missing, no image, of too many pixels, or that cannot be decoded inside.
    """
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = max(max_pixels(), MAX_PIXELS)  # Pillow refuses twice as many
    try:
        with Image.open(path if content is None else io.BytesIO(content.data)) as image:
            check_pixels(path, image.width * image.height, f"{image.width} x {image.height} = ")
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        check_pixels(path, int(re.findall(r"\d+", str(error))[0]))
    except UnidentifiedImageError:
        hint = explain_content(path) or "not an image, or a damaged one; replace the file or leave it out"
        raise DataError(f"{path}: {hint}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: cannot read this image: {getattr(error, 'strerror', None) or error}") from None


def read_image(path: Path, size: tuple[int, int] | None = None, labels: Path | None = None) -> NDArray[np.uint8]:
    """Read an image as (h, w, 3) uint8 RGB, turned as its EXIF orientation says.

    ``size`` is the height and width that the labels were made for, ``labels`` their file. Labels of an image with an
    orientation may be for the pixels as stored; then those are returned. Raises DataError for a file that is missing,
    is no image, has too many pixels, or another size either way.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot read this image: {error.strerror}") from None
    with open_image(path, content):  # checks the size
        pass
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


def read_numbers(path: Path) -> NDArray[np.generic]:
    """Read the number in each pixel (h, w) of an image of one channel or with a palette. Raises DataError."""
    with open_image(path) as image:
        if image.mode in COLOUR_MODES:
            raise DataError(
                f"{path}: the labels are colours ({image.mode}), but must be the number of the class or object of each "
                "pixel, in an image of one channel or with a palette; convert them"
            )
        numbers = np.array(image)
    if numbers.dtype.kind not in "bui" or numbers.ndim != 2:
        raise DataError(f"{path}: the labels must be one whole number for each pixel, not {numbers.dtype} values")
    return numbers


def image_size(path: Path, issues: IssueCollector = FAIL_FAST) -> tuple[int, int]:
    """Return the height and width that ``read_image`` gives, from the head of the file.

    Raises DataError as ``read_image`` does; where ``issues`` collects, an unreadable file has the size (0, 0).
    """
    return image_sizes(path, issues)[0]


def image_sizes(path: Path, issues: IssueCollector = FAIL_FAST) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return height and width of an image as viewers show it, and as it is stored, as ``image_size`` does."""
    try:
        with open_image(path) as image:
            stored = image.height, image.width
            return (image.width, image.height) if is_turned(image) else stored, stored
    except DataError as error:
        issues.report("image-unreadable", path, str(error))
    return (0, 0), (0, 0)


def is_turned(image: Image.Image) -> bool:
    """Tell if an EXIF orientation swaps width and height, without reading pixels (as Pillow would for a PNG)."""
    from PIL import Image

    return bool(Image.Image.getexif(image).get(ORIENTATION, 1) >= 5)


def _decode(content: NDArray[np.uint8], flags: int) -> NDArray[np.uint8] | None:
    """Decode an image file; None for a damaged one."""
    return cast("NDArray[np.uint8] | None", cv2.imdecode(content, flags))
