"""Reading image files: the one place that decides how a file becomes pixels."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

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
    ".gif": ("GIF",),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), ("PPM",)),
}
SUFFIXES = tuple(FILE_TYPES)
ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 swap width and height
Orientation = Literal["shown", "stored"]  # of the pixels that labels are for: turned as EXIF says, or not
# Pixels as shown, by the EXIF orientation of the stored ones (Exif 3.0, section 4.6.5.1.6).
TURNS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: np.fliplr,
    3: partial(np.rot90, k=2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: partial(np.rot90, k=-1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: np.rot90,
}
MAX_PIXELS = 178_956_970  # of an image: half a gigabyte as RGB, and the limit of Pillow
MAX_PIXELS_VARIABLE = "DETSEG_MAX_IMAGE_PIXELS"  # environment variable that changes it, also for worker processes
COLOUR_MODES = ("RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr")

cv2.setNumThreads(0)  # the worker processes are the parallelism; threads inside them would only compete


class ImageFile(Protocol):
    """A file with an image: a ``Path``, or an object that is read like one."""

    @property
    def name(self) -> str:
        """Last part of its path."""

    @property
    def suffix(self) -> str:
        """Ending of its name, with the dot."""

    def read_bytes(self) -> bytes:
        """Read the content. Raises OSError or DataError if that fails."""


class ImageTooLargeError(DataError):
    """An image of more pixels than are decoded."""


def max_pixels() -> int:
    """Return the number of pixels up to which images are decoded. Raises ConfigError for an invalid setting."""
    value = os.environ.get(MAX_PIXELS_VARIABLE, str(MAX_PIXELS))
    if not value.isdecimal() or int(value) < 1:
        raise ConfigError(f"{MAX_PIXELS_VARIABLE}: {value!r} must be a number of pixels, such as {MAX_PIXELS}")
    return int(value)


def check_pixels(path: ImageFile, pixels: int, size: str = "") -> None:
    """Raise ImageTooLargeError for a file whose image has more ``pixels`` than are decoded."""
    if pixels > (limit := max_pixels()):
        raise ImageTooLargeError(
            f"{path}: the image has {size}{pixels:,} pixels, more than the limit of {limit:,}; make it smaller, leave "
            f"it out, or set the environment variable {MAX_PIXELS_VARIABLE}={pixels} if it really has this size"
        )


def check_depth(path: ImageFile, image: Image.Image) -> None:
    """Raise DataError for an opened image whose values cannot be told to be 8 bits, or to be scaled to them."""
    if image.format == "TIFF" and image.mode in ("I", "F"):
        raise DataError(f"{path}: has 32 bits per channel; convert it to 8 bits, with the range that you want to see")


@contextmanager
def open_image(path: ImageFile, content: bytes | None = None) -> Iterator[Image.Image]:
    """Open an image with Pillow, which reads the head of the file and no pixels. ``content`` is that of the file.

    Raises DataError for a file that is missing, no image, of too many pixels, or that cannot be decoded inside.
    """
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = max(max_pixels(), MAX_PIXELS)  # Pillow refuses twice as many
    try:
        with Image.open(str(path) if content is None else io.BytesIO(content)) as image:
            check_pixels(path, image.width * image.height, f"{image.width} x {image.height} = ")
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        check_pixels(path, int(re.findall(r"\d+", str(error))[0]))
    except UnidentifiedImageError:
        hint = explain_content(path if isinstance(path, Path) else content or b"")
        hint = hint or "not an image, or a damaged one; replace the file or leave it out"
        raise DataError(f"{path}: {hint}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: cannot read this image: {getattr(error, 'strerror', None) or error}") from None


def read_image(
    path: ImageFile, size: tuple[int, int] | None = None, labels: Path | None = None, orientation: Orientation = "shown"
) -> NDArray[np.uint8]:
    """Read an image as (h, w, 3) uint8 RGB, turned as its EXIF orientation says unless it is to be as "stored".

    ``size`` is the height and width that the labels were made for, ``labels`` their file. Labels of an image with an
    orientation may be for the pixels of the other one; then those are returned. Raises DataError for a file that is
    missing, is no image, has too many pixels, or another size either way.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError for a name that no file can have
        raise DataError(f"{path}: cannot read this image: {getattr(error, 'strerror', None) or error}") from None
    with open_image(path, content) as opened:  # checks the size
        check_depth(path, opened)
        turn = read_orientation(opened)
        is_tiff = opened.format == "TIFF"
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cast("NDArray[np.uint8] | None", cv2.imdecode(np.frombuffer(content, np.uint8), flags))
    except cv2.error as error:  # more pixels than OpenCV reads
        raise DataError(f"{path}: cannot decode this image: {error.err}; make it smaller, or leave it out") from None
    if image is None:
        raise DataError(f"{path}: not an image, or a damaged one; replace the file or leave it out")
    if is_tiff and turn:  # whose decoder turns it always
        versions = {"shown": image, "stored": TURNS[{6: 8, 8: 6}.get(turn, turn)](image)}
    else:
        versions = {"shown": TURNS[turn](image) if turn else image, "stored": image}
    chosen, other = versions[orientation], versions["stored" if orientation == "shown" else "shown"]
    if size is None or chosen.shape[:2] == size:
        return np.ascontiguousarray(chosen)
    if other.shape[:2] == size:
        return np.ascontiguousarray(other)
    height, width = versions[orientation].shape[:2]
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
    try:
        with open_image(path) as image:
            return sizes_of(image)["shown"]
    except DataError as error:
        issues.report("image-unreadable", path, str(error))
    return 0, 0


def sizes_of(image: Image.Image) -> dict[Orientation, tuple[int, int]]:
    """Return the height and width of an opened image as viewers show it, and as its pixels are stored."""
    stored = image.height, image.width
    if image.format == "TIFF":  # whose size Pillow turns, but not in all its versions
        stored = image.tag_v2[257], image.tag_v2[256]  # type: ignore[attr-defined]
    return {"shown": stored[::-1] if read_orientation(image) >= 5 else stored, "stored": stored}


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image, 2 to 8, or 0 if it is shown as it is stored; read no pixels."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            orientation = Image.Image.getexif(image).get(ORIENTATION)  # not the method of a PNG, which reads them
    except Exception:  # broken EXIF, of which Pillow raises many types of errors, and viewers show the image as stored
        return 0
    return orientation if type(orientation) is int and orientation in TURNS else 0


class ImageSizes:
    """Reads the sizes of images below ``root`` whose labels do not state them, and reports EXIF orientations."""

    def __init__(self, root: Path, issues: IssueCollector = FAIL_FAST, orientation: Orientation = "shown") -> None:
        self.root, self.issues, self.orientation = root, issues, orientation
        self.turned: dict[str, list[tuple[int, int]]] = {}  # images with an EXIF orientation: size as read, and other

    def read(self, file: str) -> tuple[int, int]:
        """Return height and width of an image, as it is shown or stored; (0, 0) for an unreadable one, as reported."""
        try:
            with open_image(self.root / file) as image:
                sizes, orientation = sizes_of(image), read_orientation(image)
        except DataError as error:
            self.issues.report("image-unreadable", self.root / file, str(error))
            return 0, 0
        size = sizes.pop(self.orientation)
        if orientation:
            self.turned[file] = [size, *sizes.values()]
        return size

    def report(self, source: Path, files: Sequence[str], boxes: Iterable[Sequence[float]]) -> None:
        """Report images with an EXIF orientation, and the reading that fits ``boxes`` on ``files`` (N,) better."""
        if not self.turned:
            return
        beyond = [0, 0]
        for file, (_, _, x2, y2) in zip(files, boxes, strict=True):
            for which, (height, width) in enumerate(self.turned.get(file, ())):
                beyond[which] += bool(x2 > width + 1 or y2 > height + 1)
        other = "stored" if self.orientation == "shown" else "shown"
        hint = f"if their boxes are wrong, set `format.orientation={other!r}`"
        if beyond[1] < beyond[0]:
            hint = f"{beyond[0]} of their boxes reach beyond them, {beyond[1]} with `format.orientation={other!r}`"
        message = f"{len(self.turned)} images such as {next(iter(self.turned))} are labelled as {self.orientation}"
        self.issues.report("image-turned", source, f"{self.root}: {message}; {hint}")
