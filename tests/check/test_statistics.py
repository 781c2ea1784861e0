"""The best anchor of a box against the comparison with all anchors of all positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from detseg.check.statistics import best_anchor_ious


@pytest.mark.parametrize(("size", "side"), [((128, 160), 128), ((64, 80), 128)])
def test_the_best_of_all_anchors(size: tuple[int, int], side: int) -> None:
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 0.9, (200, 2))
    shares = np.concatenate([corners, (corners + generator.uniform(0.02, 0.8, (200, 2))).clip(0, 1)], axis=1)
    boxes = shares * np.array([size[1], size[0]] * 2)
    best = best_anchor_ious(boxes, np.tile(size, (200, 1)), side)

    images = ImageList(torch.zeros(1, 3, 128, 160), [(128, 160)])
    maps = [torch.zeros(1, 1, -(-128 // stride), -(-160 // stride)) for stride in (4, 8, 16, 32)]
    sizes = tuple((8 * stride,) for stride in (4, 8, 16, 32))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 4)(images, maps)[0]
    expected = box_iou(torch.from_numpy(shares * np.array([160, 128, 160, 128])).float(), anchors).max(dim=1).values
    large = best > expected.numpy() + 1e-5  # an anchor of the coarsest map, 512 pixels and more, is better
    assert large.sum() < 20
    np.testing.assert_allclose(best[~large], expected.numpy()[~large], atol=1e-5)
