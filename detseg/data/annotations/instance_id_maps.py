"""Images in which each pixel has the number of the object that it shows."""

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
    """The numbers (h, w) in an image of one channel. Raises DataError."""
    try:
        numbers = cv2.imdecode(np.fromfile(file, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error) as error:
        raise DataError(f"{file}: cannot read these objects: {error}") from None
    if numbers is None or numbers.ndim != 2 or numbers.dtype.kind != "u":
        raise DataError(f"{file}: must be an image of one channel with the number of the object of each pixel")
    return numbers.astype(np.int32)


def add_objects(
    builder: Builder, row: int, numbers: NDArray[np.int32], meaning: Callable[[int], tuple[str, bool] | None]
) -> None:
    """Add the objects of an image, in the order of their numbers (h, w).

    ``meaning`` gives the class of a number and whether it is a crowd, and None for one that is of no object.
    """
    from scipy.ndimage import find_objects

    height, width = numbers.shape
    counts = np.bincount(numbers.ravel())
    objects = {number: found for number in np.flatnonzero(counts).tolist() if (found := meaning(number))}
    shown = list(objects)
    position = np.zeros(len(counts), dtype=np.int32)
    position[shown] = np.arange(1, len(shown) + 1)
    places = position[numbers]
    for number, (down, across) in zip(shown, find_objects(places), strict=True):
        inside = places[down, across] == position[number]
        runs = to_string(encode(MaskWindow(across.start, down.start, inside.T), height, width))
        box = (float(across.start), float(down.start), float(across.stop), float(down.stop))
        name, crowd = objects[number]
        builder.add(row, name, box, float(counts[number]), runs=runs, crowd=crowd)
