"""What excites a channel: gradient ascent, receptive fields, and the patches of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from detseg.analysis.visualization import AscentConfig, activations, ascend, exciting_patches, paint, receptive_field
from detseg.modules.backbones import MobileNetV2
from tests.small_net import SmallNet, identity


def dot() -> list[list[list[list[float]]]]:
    """Two kernels (3, 5, 5): of a red square on what is neither green nor blue, and of a blue one."""
    square = torch.ones(5, 5)
    return [torch.stack([square, -square, -square]).tolist(), torch.stack([-square, -square, square]).tolist()]


@pytest.mark.parametrize("decorrelated", [True, False])
def test_ascent_makes_its_channel_strong_and_no_other(decorrelated: bool) -> None:
    model = SmallNet(identity().tolist()).requires_grad_(False)
    made = ascend(model, "relu", [0, 2], side=24, config=AscentConfig(60, jitter=2, decorrelated=decorrelated))
    assert made.before == pytest.approx([127.5, 127.5], abs=5)  # it begins in grey
    for channel, picture, after in zip([0, 2], made.pictures, made.after, strict=True):
        assert after > 1.4 * 127.5
        assert picture[..., channel].mean() == pytest.approx(after, abs=1)


def test_a_channel_that_is_silent_at_the_start_is_woken() -> None:
    kernel = [torch.cat([torch.ones(1, 5, 5), -torch.ones(2, 5, 5)]).tolist()]  # in grey far below zero: silent
    model = SmallNet(kernel).requires_grad_(False)
    assert isinstance(model.relu, nn.ReLU)
    made = ascend(model, "relu", [0], side=24, config=AscentConfig(80, jitter=2))
    assert made.before == [0]
    assert made.after[0] > 25 * 20
    assert isinstance(model.relu, nn.ReLU)  # the network itself is left as it was


def test_ascent_repeats_by_its_seed_and_blur_smooths() -> None:
    model = SmallNet(dot()).requires_grad_(False)
    first, again, other, smooth = (
        ascend(model, "relu", [0], 24, AscentConfig(10, blur=blur, decorrelated=False, seed=seed))
        .pictures[0]
        .astype(float)
        for seed, blur in ((0, 0), (0, 0), (1, 0), (0, 2))
    )
    assert (first == again).all()
    assert (first != other).any()
    rough, fine = (np.abs(np.diff(picture, axis=0)).mean() for picture in (first, smooth))
    assert fine < 0.7 * rough


def test_deep_channels_are_climbed_by_far() -> None:
    torch.manual_seed(0)
    model = MobileNetV2(norm="frozen").eval().requires_grad_(False)
    made = ascend(model, "features.3", [0, 5], side=48, config=AscentConfig(30))
    for before, after in zip(made.before, made.after, strict=True):
        assert after > 2.5 * abs(before)


# Side of what a cell sees, by the rule r + (k - 1) * stride over the 3 x 3 convolutions up to the block.
@pytest.mark.parametrize(
    ("block", "strides"), [("features.1", "21"), ("features.3", "2121"), ("features.6", "2121211")]
)
def test_receptive_fields_are_those_of_the_rule(block: str, strides: str) -> None:
    side, jump = 1, 1
    for stride in map(int, strides):
        side, jump = side + 2 * jump, jump * stride
    model = MobileNetV2(norm="frozen").eval().requires_grad_(False)
    for axis, cell, length in ((0, 8, 160), (1, 10, 192)):
        first, end = receptive_field(model, block, axis, cell, length)
        assert end - first == side
        assert (first + end - 1) / 2 == pytest.approx(cell * jump, abs=jump)
        assert receptive_field(model, block, axis, 0, length)[0] == 0  # cut at the edge


def test_the_patch_found_is_the_planted_one() -> None:
    generator = np.random.default_rng(0)
    images = []
    for number in range(6):
        image = generator.integers(0, 60, (32, 40, 3)).astype(np.uint8)
        image[20:25, 7:12] = (0, 0, 100 + 10 * number)  # a blue square, brighter every time
        images.append((Path(f"{number}.png"), image))
    images[2][1][3:8, 30:35] = (255, 0, 0)
    red, blue = exciting_patches(SmallNet(dot()).requires_grad_(False), "relu", [0, 1], images, count=3)
    assert red[0].image == Path("2.png")
    assert red[0].box == (30, 3, 35, 8)
    assert red[0].activation == 255 * 25
    assert [patch.image.stem for patch in blue] == ["5", "4", "3"]
    assert {patch.box for patch in blue} == {(7, 20, 12, 25)}
    x1, y1, x2, y2 = blue[0].box
    assert (blue[0].pixels[y1:y2, x1:x2] == (0, 0, 150)).all()


def test_maps_are_what_the_block_gives_and_painted_by_sign() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3)).astype(np.uint8)
    model = SmallNet(dot())
    expected = nn.functional.conv2d(torch.from_numpy(image).permute(2, 0, 1)[None].float(), torch.tensor(dot()))
    np.testing.assert_allclose(activations(model, "conv", image), expected[0], rtol=1e-4, atol=1e-2)
    assert (activations(model, "relu", image) >= 0).all()
    colours = paint(np.array([[0, 2], [-2, -1]], np.float32))
    assert colours[0, 0].tolist() == [255, 255, 255]
    assert colours[0, 1].tolist() == [178, 24, 43]
    assert colours[1, 0].tolist() == [33, 102, 172]
    assert colours[1, 1].tolist() == [144, 178, 214]
