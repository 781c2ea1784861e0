"""Images to predict on: the sources of ``list_images``, arrays, PIL images and tensors."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detseg.data.annotations.images import TURNS, ImageFile, read_image, read_orientation
from detseg.errors import DataError
from detseg.inference.archives import ImageAddress, ImageContent
from detseg.inference.sources import image_file, list_images

if TYPE_CHECKING:
    from torch import Tensor

ImageArray = NDArray[np.uint8]  # (h, w, 3), RGB


@dataclass(frozen=True)
class ImageNames:
    """Names from ``list_images``: each is an image, even where it looks like a source of others."""

    names: Iterable[str]


@dataclass(frozen=True)
class FailedSource:
    """A source whose images cannot be listed. It counts as an image that cannot be read."""

    name: str
    error: DataError


ImageSource = Union[Path, ImageAddress, ImageContent, NDArray[np.uint8], Image.Image, "Tensor"]  # one image
Images = str | ImageNames | ImageSource | Iterable[str | ImageSource]


class InputImage(NamedTuple):
    """An image to predict on."""

    pixels: ImageArray
    path: ImageFile | None = None  # None for an image that does not come from a file


def iterate_images(images: Images) -> Iterator[ImageSource | FailedSource]:
    """Iterate over single images: files one by one, and the images of a list, an iterator or a 4-dimensional batch."""
    if isinstance(images, ImageNames):
        yield from map(image_file, images.names)
    elif isinstance(images, (str, Path)):
        try:
            yield from map(image_file, list_images([images]))
        except DataError as error:
            yield FailedSource(str(images), error)
    elif isinstance(images, (ImageAddress, ImageContent, Image.Image)) or (
        (isinstance(images, np.ndarray) or _is_tensor(images)) and images.ndim < 4
    ):
        yield images
    else:
        for item in images:
            yield from iterate_images(item)


def open_image(source: ImageSource | FailedSource) -> InputImage:
    """Read an image as RGB. Grey images, palettes and transparency are treated alike, whatever the source.

    Arrays are (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) uint8, in the order RGB; tensors (3, h, w) or (1, h, w), uint8,
    or floating point between 0 and 1. PIL images are turned as their EXIF orientation says, as files are.

    Raises DataError, naming the file or the shape, for anything else.
    """
    if isinstance(source, FailedSource):
        raise source.error
    if is_file(source):
        return InputImage(read_image(source), source)
    if isinstance(source, Image.Image):
        return InputImage(_from_pil(source))
    if _is_tensor(source):
        return InputImage(_from_tensor(source))
    if isinstance(source, np.ndarray):
        return InputImage(_to_rgb(source))
    raise DataError(f"cannot predict on a {type(source).__name__}; give a path, an array, a PIL image or a tensor")


def is_file(source: Any) -> TypeGuard[Path | ImageAddress | ImageContent]:
    """Tell files, which can be read later, from arrays, which their owner may fill with the next image."""
    return isinstance(source, (Path, ImageAddress, ImageContent))


def _is_tensor(value: Any) -> TypeGuard[Tensor]:
    """Tell tensors from other images without importing torch, which need not be installed."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _from_pil(image: Image.Image) -> ImageArray:
    image.load()  # which turns a TIFF
    turn = read_orientation(image)
    if image.mode.startswith("I;16"):  # Pillow would clip what files have reduced to 8 bits
        pixels = _to_rgb((np.asarray(image) >> 8).astype(np.uint8))
    else:
        pixels = np.array(image.convert("RGB"))
    return np.ascontiguousarray(TURNS[turn](pixels)) if turn else pixels


def _from_tensor(image: Tensor) -> ImageArray:
    if image.is_floating_point():
        if image.numel() and not (image.min() >= 0 and image.max() <= 1):
            raise DataError("an image tensor in floating point must lie between 0 and 1; divide 8-bit values by 255")
        image = (255 * image).round().byte()
    return _to_rgb(image.detach().movedim(0, -1).cpu().numpy() if image.ndim == 3 else image.detach().cpu().numpy())


def _to_rgb(image: NDArray[np.uint8]) -> ImageArray:
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3, 4) or not image.size:
        raise DataError(
            f"an image of shape {tuple(image.shape)} and type {image.dtype}: arrays must be uint8 RGB of shape "
            "(h, w, 3), or grey (h, w); tensors (3, h, w)"
        )
    if channels == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return np.array(image[:, :, :3], order="C")  # a copy: the caller may fill the array with the next image
