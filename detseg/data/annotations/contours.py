"""Masks as one polygon each, which is all that a format such as YOLO's holds: along the edges of pixels, exactly."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (n, 2) x and y


def trace_contours(mask: NDArray[np.bool_]) -> list[Points]:
    """The outlines of a mask (h, w): one for each part, clockwise as seen, and one for each hole, the other way round.

    They run along the edges of pixels, so that their corners are whole numbers and COCO's drawing of them is the mask.
    """
    padded = np.pad(mask, 1)
    edges: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)  # where those go that begin at a corner
    # For each side of a pixel beyond which it is outside: where the edge begins and ends, with the inside to the right.
    for (down, across), (x1, y1), (x2, y2) in (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, 1), (1, 0), (1, 1)),
        ((1, 0), (1, 1), (0, 1)),
        ((0, -1), (0, 1), (0, 0)),
    ):
        beyond = np.roll(padded, (-down, -across), (0, 1))
        for y, x in np.argwhere(padded & ~beyond).tolist():
            edges[x + x1 - 1, y + y1 - 1].append((x + x2 - 1, y + y2 - 1))
    rings = []
    while edges:
        start = next(iter(edges))
        rings.append(_ring(start, edges))
    return rings


def _ring(start: tuple[int, int], edges: dict[tuple[int, int], list[tuple[int, int]]]) -> Points:
    """Take the edges of one outline, and keep its corners. Where four edges meet, either way on covers the same."""
    corners = []
    here, direction = start, (0, 0)
    while here in edges:
        following = edges[here].pop()
        if not edges[here]:
            del edges[here]
        turned = (following[0] - here[0], following[1] - here[1])
        if turned != direction:
            corners.append(here)
        here, direction = following, turned
    return np.array(corners, dtype=np.float64)


def concat_contours(parts: list[Points]) -> Points:
    """One polygon of several, with bridges of no width from the first corner to each of the others.

    A line drawn twice bounds nothing, so that it covers what the parts do, if these do not overlap.
    """
    first, *others = parts
    path = [first]
    for part in others:
        path += [first[:1], part, part[:1]]
    return np.concatenate([*path, first[:1]] if others else path)


def signed_area(points: Points) -> float:
    """Area inside a polygon by the shoelace formula, above 0 where it goes round clockwise as seen."""
    x, y = points.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def make_clockwise(points: Points) -> Points:
    """The same polygon, gone round clockwise as seen."""
    return points if signed_area(points) >= 0 else points[::-1]
