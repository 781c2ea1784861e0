"""Sheets of thumbnails and points of a map."""

import numpy as np

from detseg.analysis.maps import atlas, unit_square


def test_an_atlas_holds_every_thumbnail() -> None:
    thumbnails = np.random.default_rng(0).integers(0, 256, (7, 48, 48, 3)).astype(np.uint8)
    sheet, columns = atlas(thumbnails, 24)
    assert columns == 3
    for row in range(7):
        top, left = row // 3 * 24, row % 3 * 24
        small = thumbnails[row].reshape(24, 2, 24, 2, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(sheet[top : top + 24, left : left + 24], small, atol=0.51)


def test_points_fill_the_unit_square() -> None:
    points = unit_square(np.array([[2.0, 5], [4, 5], [3, 5]]))
    assert points.tolist() == [[0, 0], [1, 0], [0.5, 0]]
