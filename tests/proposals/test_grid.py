from __future__ import annotations

import numpy as np
import pytest

from detseg.ops.boxes import iou
from detseg.proposals.grid import grid


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (1, 1), (7, 300)])
def test_windows_are_inside_and_every_pixel_is_covered_at_every_scale(height: int, width: int) -> None:
    boxes = grid(np.zeros((height, width, 3), np.uint8))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= np.array([width, height], np.float32)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    assert areas[0] >= areas[-1]
    if min(height, width) > 300:
        small = boxes[areas < 1.01 * height * width / 64]
        for x, y in np.random.default_rng(0).uniform(0, [width, height], (200, 2)):
            assert ((small[:, :2] <= [x, y]) & (small[:, 2:] >= [x, y])).all(axis=1).any()


def test_a_window_of_each_shape_and_place_is_near() -> None:
    """Whatever square of a quarter of the image's side: a window covers it with an IoU of more than .4."""
    import torch

    boxes = torch.from_numpy(grid(np.zeros((400, 400, 3), np.uint8)))
    corners = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * 300
    best = iou(torch.cat([corners, corners + 100], dim=1), boxes).amax(dim=1)
    assert best.min() > 0.4
