"""Images whose pixels hold the number of an object."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.builder import Builder
from detseg.errors import DataError
from detseg.ops.rle import MaskWindow, encode, to_string


def read_instance_ids(file: Path) -> NDArray[np.int32]:
    """Read the object number of each pixel (h, w) from an image of one channel. Raises DataError."""
    try:
        numbers = cv2.imdecode(np.fromfile(file, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error) as error:
        raise DataError(f"{file}: cannot read these objects: {error}") from None
    if numbers is None or numbers.ndim != 2 or numbers.dtype.kind != "u":
        raise DataError(f"{file}: must be an image of one channel with the number of the object of each pixel")
    return numbers.astype(np.int32)


def add_objects(
    builder: Builder, image: int, numbers: NDArray[np.int32], classify: Callable[[int], tuple[str, bool] | None]
) -> None:
    """Add the objects of an image in the order of their numbers (h, w).

    ``classify`` maps a number to its class name and crowd flag, or None if it is not of an object.
    """
    from scipy.ndimage import find_objects

    height, width = numbers.shape
    counts = np.bincount(numbers.ravel())
    objects = {number: meaning for number in np.flatnonzero(counts).tolist() if (meaning := classify(number))}
    position = np.zeros(len(counts), dtype=np.int32)
    position[list(objects)] = np.arange(1, len(objects) + 1)
    places = position[numbers]
    for (number, (name, crowd)), (down, across) in zip(objects.items(), find_objects(places), strict=True):
        inside = places[down, across] == position[number]
        rle = to_string(encode(MaskWindow(across.start, down.start, inside.T), height, width))
        box = (float(across.start), float(down.start), float(across.stop), float(down.stop))
        builder.add(image, name, box, float(counts[number]), rle, crowd)
