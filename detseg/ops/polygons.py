"""Polygons under COCO's rasterisation rule."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SUBPIXELS = 5  # COCO rounds corners to this fraction of a pixel


def surely_nonempty(
    corners: NDArray[np.float64], counts: NDArray[np.int64], image_sizes: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """Mark the polygons that certainly cover a pixel of their image; the others, mostly tiny, may or may not.

    ``corners`` (N, 2) are x and y of all polygons, one polygon after the other, with ``counts`` (n,) corners each, 1 or
    more; ``image_sizes`` (n, 2) are heights and widths. Returns (n,) bool.

    Only the middle pixel column of each polygon is tested. COCO rounds the corners to a fifth of a pixel, and fills a
    column between its first and second crossing with the sides, third and fourth, and so on. Each crossing has an
    error of less than half a pixel, so two crossings two pixels apart enclose a pixel.
    """
    if not len(counts):
        return np.zeros(0, dtype=bool)
    ends = np.cumsum(counts)
    starts = ends - counts
    x = np.trunc(SUBPIXELS * corners[:, 0] + 0.5)
    middle = (np.minimum.reduceat(x, starts) + np.maximum.reduceat(x, starts)) / 2
    column = np.clip(middle // SUBPIXELS, 0, image_sizes[:, 1] - 1)
    lines = SUBPIXELS * (column + 0.5)  # no corner lies on them
    left = x < np.repeat(lines, counts)
    left_after = np.append(left[1:], False)
    left_after[ends - 1] = left[starts]
    sides = np.flatnonzero(left != left_after)
    polygon = np.searchsorted(ends, sides, side="right")
    after = np.where(sides + 1 == ends[polygon], starts[polygon], sides + 1)
    x, x_after, line = x[sides], x[after], lines[polygon]
    y, y_after = (np.trunc(SUBPIXELS * corners[place, 1] + 0.5) for place in (sides, after))
    crossings = np.clip((y + (y_after - y) * (line - x) / (x_after - x)) / SUBPIXELS, 0, image_sizes[polygon, 0])
    order = np.lexsort((crossings, polygon))  # an even number of each polygon
    first, second = order[::2], order[1::2]
    nonempty = np.zeros(len(counts), dtype=bool)
    nonempty[polygon[first][crossings[second] - crossings[first] >= 2]] = True
    return nonempty
