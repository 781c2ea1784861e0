"""Polygons as COCO draws them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FINE = 5  # parts of a pixel's side that COCO rounds corners to


def surely_nonempty(
    corners: NDArray[np.float64], counts: NDArray[np.int64], sizes: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """Which of n polygons have a pixel in their images; of the others, most of which are tiny, it is not known.

    ``corners`` (N, 2) x and y, the first ``counts`` (n,) of which, 1 or more, are those of the first polygon;
    ``sizes`` (n, 2) height and width of the images.

    It looks at the column of pixels in the middle of each. COCO rounds the corners to a fifth of a pixel, and fills a
    column between its first and second crossing with the sides, third and fourth, and so on; with less than half a
    pixel of error in each, two crossings that are two pixels apart have one between them.
    """
    if not len(counts):
        return np.zeros(0, dtype=bool)
    ends = np.cumsum(counts)
    starts = ends - counts
    x = np.trunc(FINE * corners[:, 0] + 0.5)
    middle = (np.minimum.reduceat(x, starts) + np.maximum.reduceat(x, starts)) / 2
    column = np.clip(middle // FINE, 0, sizes[:, 1] - 1)
    lines = FINE * (column + 0.5)  # no corner lies on them
    left = x < np.repeat(lines, counts)
    left_after = np.append(left[1:], False)
    left_after[ends - 1] = left[starts]
    sides = np.flatnonzero(left != left_after)
    polygon = np.searchsorted(ends, sides, side="right")
    after = np.where(sides + 1 == ends[polygon], starts[polygon], sides + 1)
    x, x_after, line = x[sides], x[after], lines[polygon]
    y, y_after = (np.trunc(FINE * corners[place, 1] + 0.5) for place in (sides, after))
    crossings = np.clip((y + (y_after - y) * (line - x) / (x_after - x)) / FINE, 0, sizes[polygon, 0])
    order = np.lexsort((crossings, polygon))  # an even number of each polygon
    first, second = order[::2], order[1::2]
    found = np.zeros(len(counts), dtype=bool)
    found[polygon[first][crossings[second] - crossings[first] >= 2]] = True
    return found
