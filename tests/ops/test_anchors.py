from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from detseg.ops.anchors import base_anchors, grid_anchors

RATIOS = (0.5, 1.0, 2.0)


@pytest.mark.parametrize("sizes", [(32,), (32, 64, 128, 256, 512), (20.5, 7)])
@pytest.mark.parametrize("ratios", [RATIOS, (1.0,), (0.3, 3.7)])
def test_cell(sizes, ratios) -> None:
    expected = AnchorGenerator((sizes,), (ratios,)).cell_anchors[0]
    assert torch.equal(base_anchors(sizes, ratios), expected)


@pytest.mark.parametrize("image", [(800, 1088), (64, 64), (96, 224), (75, 130)])
def test_grid(image) -> None:
    sizes = [(32,), (64,), (128,), (256,), (512,)]
    grids = [tuple(-(-side // stride) for side in image) for stride in (4, 8, 16, 32, 64)]
    generator = AnchorGenerator(tuple(sizes), (RATIOS,) * len(sizes))
    expected = generator(ImageList(torch.zeros(1, 3, *image), [image]), [torch.zeros(1, 1, *grid) for grid in grids])
    anchors = [grid_anchors(base_anchors(size, RATIOS), grid, image) for size, grid in zip(sizes, grids, strict=True)]
    assert torch.equal(torch.cat(anchors), expected[0])


def test_grid_of_a_map_that_was_rounded_up() -> None:
    """P6 of an image 800 pixels high is 13 high: its step is 61 pixels."""
    y = grid_anchors(torch.tensor([[0.0, 0, 1, 1]]), (13, 17), (800, 1088)).view(13, 17, 4)[:, 0, 1]
    assert y.tolist() == [61 * row for row in range(13)]
