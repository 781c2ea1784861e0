"""Polygons as COCO draws them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FINE = 5  # parts of a pixel's side that COCO rounds corners to


def surely_drawn(
    corners: NDArray[np.float64], counts: NDArray[np.int64], sizes: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """Which of n polygons have a pixel in their images; of the others, most of which are tiny, it is not known.

    ``corners`` (N, 2) x and y, the first ``counts`` (n,) of which, 1 or more, are those of the first polygon;
    ``sizes`` (n, 2) height and width of the images.

    It looks at the column of pixels in the middle of each. COCO rounds the corners to a fifth of a pixel, and fills a
    column between its first and second crossing with the sides, third and fourth, and so on; with less than half a
    pixel of error in each, two crossings that are two pixels apart have one between them.
    """
    x, y = np.trunc(FINE * corners + 0.5).T
    ends = np.cumsum(counts)
    following = np.arange(1, len(x) + 1)
    following[ends - 1] = ends - counts
    polygon = np.repeat(np.arange(len(counts)), counts)
    if not len(counts):
        return np.zeros(0, dtype=bool)
    middle = (np.minimum.reduceat(x, ends - counts) + np.maximum.reduceat(x, ends - counts)) / 2
    column = np.clip(middle // FINE, 0, sizes[:, 1] - 1)
    line = (FINE * (column + 0.5))[polygon]  # no corner lies on it
    sides = np.flatnonzero((x < line) != (x[following] < line))
    after, polygon = following[sides], polygon[sides]
    x, y, x_after, y_after, line = x[sides], y[sides], x[after], y[after], line[sides]
    crossings = np.clip((y + (y_after - y) * (line - x) / (x_after - x)) / FINE, 0, sizes[polygon, 0])
    order = np.lexsort((crossings, polygon))  # an even number of each polygon
    first, second = order[::2], order[1::2]
    found = np.zeros(len(counts), dtype=bool)
    found[polygon[first][crossings[second] - crossings[first] >= 2]] = True
    return found
