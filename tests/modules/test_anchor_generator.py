from __future__ import annotations

import pytest
import torch
from torchvision.models.detection import anchor_utils
from torchvision.models.detection.image_list import ImageList

from detseg.modules import AnchorGenerator

RATIOS = (0.5, 1.0, 2.0)


@pytest.mark.parametrize("sizes", [(32,), (32, 64, 128, 256, 512), (20.5, 7)])
@pytest.mark.parametrize("ratios", [RATIOS, (1.0,), (0.3, 3.7)])
def test_cell(sizes, ratios) -> None:
    expected = anchor_utils.AnchorGenerator((sizes,), (ratios,)).cell_anchors[0]
    assert torch.equal(AnchorGenerator([sizes], ratios).build([16]).base_anchors[0], expected)


@pytest.mark.parametrize("image", [(800, 1088), (64, 64), (96, 224), (75, 130)])
def test_grid(image) -> None:
    sizes = [(32,), (64,), (128,), (256,), (512,)]
    strides = (4, 8, 16, 32, 64)
    maps = [torch.zeros(1, 1, *(-(-side // stride) for side in image)) for stride in strides]
    generator = anchor_utils.AnchorGenerator(tuple(sizes), (RATIOS,) * len(sizes))
    expected = generator(ImageList(torch.zeros(1, 3, *image), [image]), maps)
    assert torch.equal(torch.cat(AnchorGenerator(sizes, RATIOS).build(strides)(maps, image)), expected[0])


def test_grid_of_a_map_that_was_rounded_up() -> None:
    """P6 of an image 800 pixels high is 13 high: its step is 61 pixels."""
    (anchors,) = AnchorGenerator([[8]], [1.0]).build([64])([torch.zeros(1, 1, 13, 17)], (800, 1088))
    assert anchors.view(13, 17, 4)[:, 0, 1].tolist() == [61 * row - 4 for row in range(13)]
