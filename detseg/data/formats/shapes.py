"""Shapes of annotation tools: their boxes, areas and outlines."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.builder import Box, polygon_area, polygon_box
from detseg.data.annotations.issues import AnnotationError
from detseg.ops.rle import MaskWindow, encode, to_string

Point = tuple[float, float]

CORNERS = 72  # of the polygon that approximates an ellipse
MAX_COORDINATE = 1e6  # pixels

Outline = tuple[Box, float, list[Point] | bytes | None]  # box, area (NaN: of the box), and polygon or RLE


def parse_numbers(values: Iterable[Any], what: str) -> list[float]:
    """Parse coordinates. Raises AnnotationError, which names ``what`` they are, for other values."""
    given = [*values]
    try:
        numbers = [float(value) for value in given]
    except (TypeError, ValueError, OverflowError):
        numbers = [math.nan]
    if not all(abs(number) < MAX_COORDINATE for number in numbers):
        raise AnnotationError("box-nan", f"has {what} {str(given)[:80]}, which are not numbers of pixels")
    return numbers


def polygon(xs: Iterable[Any], ys: Iterable[Any]) -> Outline:
    """Parse the corners of a polygon. Raises AnnotationError for fewer than three, or a different count of x and y."""
    x, y = parse_numbers(xs, "x"), parse_numbers(ys, "y")
    if len(x) != len(y) or len(x) < 3:
        raise AnnotationError("label-broken", f"has {len(x)} x and {len(y)} y; a polygon has three or more of each")
    points = [*zip(x, y, strict=True)]
    return polygon_box(points), polygon_area(points), points


def rotate(points: Iterable[Point], degrees: float, centre: Point) -> list[Point]:
    """Rotate points about ``centre``, clockwise as seen."""
    (x0, y0), angle = centre, math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    return [(x0 + (x - x0) * cos - (y - y0) * sin, y0 + (x - x0) * sin + (y - y0) * cos) for x, y in points]


def rotated_box(box: Box, degrees: float, centre: Point) -> Box:
    """Return the box around a box that is rotated about ``centre``, clockwise as seen."""
    x1, y1, x2, y2 = box
    return polygon_box(rotate([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], degrees, centre)) if degrees % 360 else box


def ellipse(centre: Point, radii: Point, degrees: float = 0) -> Outline:
    """Box, area and approximate outline of an ellipse with ``radii`` along x and y, rotated clockwise as seen."""
    (x, y), (a, b) = centre, radii
    angle = math.radians(degrees)
    half_width = math.hypot(a * math.cos(angle), b * math.sin(angle))
    half_height = math.hypot(a * math.sin(angle), b * math.cos(angle))
    turns = (2 * math.pi * corner / CORNERS for corner in range(CORNERS))
    outline = rotate([(x + a * math.cos(turn), y + b * math.sin(turn)) for turn in turns], degrees, centre)
    return (x - half_width, y - half_height, x + half_width, y + half_height), math.pi * a * b, outline


def pixel_mask(inside: NDArray[np.bool_], left: int, top: int, size: tuple[int, int]) -> tuple[Box, float, bytes]:
    """Box, area and RLE of the pixels ``inside`` (h, w) of a window in an image of a height and width.

    Raises AnnotationError for no pixels, and for a window that does not lie in the image.
    """
    (height, width), (h, w) = size, inside.shape
    if not (0 <= left <= width - w and 0 <= top <= height - h):
        message = f"has a mask of {w}x{h} at ({left}, {top}), but its image is {width}x{height}"
        raise AnnotationError("label-broken", message)
    rows, columns = np.flatnonzero(inside.any(axis=1)).tolist(), np.flatnonzero(inside.any(axis=0)).tolist()
    if not rows:
        raise AnnotationError("label-broken", "has a mask without a pixel")
    box = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
    rle = to_string(encode(MaskWindow(left, top, inside.T), height, width))
    return box, float(inside.sum()), rle
