"""The IoU of labels at a stride, against shares that are averaged and upsampled by hand."""

from __future__ import annotations

import numpy as np
import pytest

from detseg.constants import IGNORE_INDEX
from detseg.metrics.stride_limit import matrix_at_stride, stride_limit
from detseg.preprocessing import ResizeConfig


def upsampled(cells: np.ndarray, length: int) -> np.ndarray:
    """Interpolate the values of cells linearly between their centres, and constantly beyond the outer ones."""
    centres = (np.arange(len(cells)) + 0.5) * length / len(cells)
    return np.interp(np.arange(length) + 0.5, centres, cells)


@pytest.mark.parametrize(("stride", "size"), [(8, (48, 48)), (4, (48, 48)), (8, (96, 96))])
def test_a_row_of_bars(stride: int, size: tuple[int, int]) -> None:
    row = np.zeros(48, np.uint8)
    row[5:8], row[20:31], row[40:41] = 1, 2, 1
    cell = stride * 48 // size[1]
    row[33:36] = IGNORE_INDEX
    expected = np.zeros((3, 3), np.int64)
    shares = [(row == label).reshape(-1, cell).mean(axis=1) for label in range(3)]
    predicted = np.argmax([upsampled(share, 48) for share in shares], axis=0)
    for label, other in zip(row, predicted, strict=True):
        if label != IGNORE_INDEX:
            expected[label, other] += 48
    matrix = matrix_at_stride(np.tile(row, (48, 1)), 3, stride, size)
    np.testing.assert_array_equal(matrix, expected)


def test_an_image_without_a_label() -> None:
    assert not matrix_at_stride(np.full((4, 4), IGNORE_INDEX, np.uint8), 2, 8, (4, 4)).any()


def test_larger_images_leave_more_of_a_thin_class() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[:, 13:17], labels[:, 40:] = 1, 2  # a pole across two cells, and a wall of whole ones
    plain, larger = (stride_limit([labels, labels], 4, 8, one) for one in (None, ResizeConfig(256, 256)))
    assert plain.iou[1] == 0
    assert larger.iou[1] == 1
    assert plain.iou[2] == 1
    assert np.isnan(plain.iou[3])
