from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask

from detseg.ops.polygons import surely_nonempty

NUMBER = st.floats(-30, 60) | st.integers(-30, 60) | st.integers(-60, 120).map(lambda number: number / 2)
POLYGONS = st.lists(st.lists(st.tuples(NUMBER, NUMBER), min_size=3, max_size=12), min_size=1, max_size=5)


@settings(deadline=None, max_examples=100)
@given(POLYGONS, st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_what_is_surely_drawn_has_pixels(
    polygons: list[list[tuple[float, float]]], h: int, w: int, twice: bool
) -> None:
    """Twice around is nothing: COCO fills between the first crossing of a column and the second."""
    polygons = [one * 2 if twice else one for one in polygons]
    corners = np.array([corner for one in polygons for corner in one], dtype=np.float64)
    counts, sizes = np.array([len(one) for one in polygons]), np.array([[h, w]] * len(polygons), dtype=np.int32)
    for one, sure in zip(polygons, surely_nonempty(corners, counts, sizes), strict=True):
        pixels = mask.area(mask.frPyObjects([np.array(one, dtype=float).ravel().tolist()], h, w)[0])
        assert pixels or not sure


def test_most_polygons_are_surely_drawn() -> None:
    generator = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    circles = np.stack([np.cos(angles), np.sin(angles)], axis=1) * generator.uniform(2, 50, (1000, 1, 1))
    corners = (circles + generator.uniform(2, 98, (1000, 1, 2))).reshape(-1, 2)
    sure = surely_nonempty(corners, np.full(1000, 12), np.full((1000, 2), 100, dtype=np.int32))
    assert sure.mean() > 0.99
    assert not surely_nonempty(corners + 200, np.full(1000, 12), np.full((1000, 2), 100, dtype=np.int32)).any()
    assert surely_nonempty(corners[:0], np.zeros(0, dtype=np.int64), np.zeros((0, 2), dtype=np.int32)).shape == (0,)
