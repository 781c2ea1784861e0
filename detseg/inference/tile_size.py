"""A size of tiles that suits the objects of a data set."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from detseg.constants import STRIDE
from detseg.preprocessing import Preprocessing, ResizeConfig
from detseg.resizing import fit

SMALL = 32  # pixels: COCO's small objects are below 32 x 32


def choose_tile_size(
    boxes: NDArray[np.floating], sizes: NDArray[np.int64], preprocessing: Preprocessing, overlap: float
) -> tuple[int | None, str]:
    """Choose the side of tiles by labelled ``boxes`` (N, 4) on images of ``sizes`` (I, 2); also return the reason.

    A tile is resized as an image is. The largest tile in which 3 of 4 objects are no longer small is taken, or a larger
    one whose overlap holds 9 of 10 objects, so that they are whole in one of the tiles. Returns None where whole images
    do as well.
    """
    if not isinstance(preprocessing, ResizeConfig):
        return None, "no tiles: the model takes images at their full size, which tiles would not change"
    if not len(boxes) or not len(sizes):
        return None, "no tiles: there are no labelled objects to choose a size by"
    sides = boxes[:, 2:] - boxes[:, :2]
    typical = float(np.quantile(np.sqrt(sides.clip(0).prod(axis=1)), 0.25))
    large = float(np.quantile(sides.max(axis=1), 0.9))
    edge = float(np.median(sizes.min(axis=1)))
    scale = float(np.median(fit(sizes, preprocessing.min_size, preprocessing.max_size).min(axis=1) / sizes.min(axis=1)))
    reached = f"3 of 4 objects have a side of {typical:.0f} pixels or more"
    if typical * scale >= SMALL:
        return None, f"no tiles: {reached}, {typical * scale:.0f} after resizing the whole image, and are not small"
    wanted, needed = preprocessing.min_size * typical / SMALL, large / overlap if overlap else 0.0
    size = max(1, math.floor(wanted / STRIDE), math.ceil(needed / STRIDE)) * STRIDE
    if size >= edge:
        return None, f"no tiles: they would need {size} pixels to hold 9 of 10 objects, as much as an image has"
    resized = typical * preprocessing.min_size / size
    reason = f"tile {size}: {reached}, {typical * scale:.0f} after resizing the whole image, {resized:.0f} in a tile"
    if needed > wanted:
        reason += f"; in smaller tiles, fewer than 9 of 10 objects ({large:.0f} pixels) would fit into the overlap"
    return size, reason
