"""The map of an embedding: thumbnails at the places of their images, as a picture and as values for a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.analysis.charts import escape, pixels_of, to_figure
from detseg.draw import ImageArray, colour

SIZE = (1100, 900)  # pixels of the picture
CELL = 34  # pixels of a thumbnail in it, and of the raster in which the first image of a cell is shown
PAGE_SIDES = ((5000, 48), (math.inf, 32))  # up to so many images, pixels of a thumbnail in a page

Points = NDArray[np.float64]  # (N, 2)


def unit_square(points: Points) -> Points:
    """Scale points to [0, 1] on both axes, each by its range."""
    low, high = points.min(axis=0), points.max(axis=0)
    return np.asarray((points - low) / np.where(high > low, high - low, 1))


def draw_map(
    title: str,
    points: Points,
    labels: NDArray[np.int64],
    classes: Sequence[str],
    thumbnails: NDArray[np.uint8],
    paths: Mapping[str, Points],
) -> ImageArray:
    """Draw points (N, 2) of the unit square, thumbnails on top where there is room, framed in the colour of the class.

    ``paths`` are lines through the map by name.
    """
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    figure = to_figure(SIZE)
    axes = figure.add_subplot(xticks=[], yticks=[], xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.set_title(escape(title), wrap=True)
    colors = np.array([colour(int(label)) if label >= 0 else (150, 150, 150) for label in labels]) / 255
    present = [label for label in range(len(classes)) if (labels == label).any()]
    for label in [*present[:20], -1]:
        chosen = labels == label
        name = escape(classes[label]) if label >= 0 else "no class"
        if chosen.any():
            axes.scatter(points[chosen, 0], points[chosen, 1], s=14, color=colors[chosen], label=name)
    others = np.isin(labels, present[20:])
    if others.any():
        axes.scatter(
            points[others, 0], points[others, 1], s=14, color=colors[others], label=f"{len(present) - 20} more"
        )
    taken: set[tuple[int, int]] = set()
    for row, (x, y) in enumerate(points):
        cell = (int(x * SIZE[0] / CELL), int(y * SIZE[1] / CELL))
        if cell not in taken:
            taken.add(cell)
            image = OffsetImage(thumbnails[row], zoom=0.72 * (CELL - 6) / thumbnails.shape[1])
            frame = {"edgecolor": colors[row], "linewidth": 1.6, "boxstyle": "square,pad=0.06"}
            axes.add_artist(AnnotationBbox(image, (x, y), bboxprops=frame, pad=0))
    for name, path in paths.items():
        axes.plot(*path.T, "-o", color="black", markersize=3, linewidth=1.5, zorder=10)
        axes.annotate(name, path[-1], zorder=11, fontweight="bold")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    return pixels_of(figure)


def thumbnail_side(count: int) -> int:
    """Return the pixels of a thumbnail in a page of ``count`` images."""
    return next(side for most, side in PAGE_SIDES if count <= most)


def atlas(thumbnails: NDArray[np.uint8], side: int) -> tuple[ImageArray, int]:
    """Arrange thumbnails, shrunk to ``side``, row by row in one image; returns it and the number of columns."""
    import cv2

    columns = math.ceil(len(thumbnails) ** 0.5)
    sheet = np.zeros((math.ceil(len(thumbnails) / columns) * side, columns * side, 3), np.uint8)
    for row, thumbnail in enumerate(thumbnails):
        top, left = (side * place for place in divmod(row, columns))
        sheet[top : top + side, left : left + side] = cv2.resize(thumbnail, (side, side), interpolation=cv2.INTER_AREA)
    return sheet, columns


def page_values(points: Points, paths: Mapping[str, Points]) -> dict[str, Any]:
    """Return the coordinates that a page draws, rounded to a ten-thousandth of its width."""
    lines = [
        {"name": name, "x": path[:, 0].round(4).tolist(), "y": path[:, 1].round(4).tolist()}
        for name, path in paths.items()
    ]
    return {"x": points[:, 0].round(4).tolist(), "y": points[:, 1].round(4).tolist(), "paths": lines}
