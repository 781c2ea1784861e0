from __future__ import annotations

import pytest
import torch
import torchvision
from torch.testing import assert_close

from detseg.modules.backbones import BagNet
from detseg.modules.backbones.bagnet import Bottleneck
from tests.modules.backbones.cost import cost
from tests.modules.backbones.tester import BackboneTester, shake

BLOCKS = (3, 4, 6, 3)
WIDE = {"bagnet9": 2, "bagnet17": 3, "bagnet33": 4}


class TestBagNet9(BackboneTester):
    kind = BagNet
    arguments = {"name": "bagnet9"}
    frozen = ("conv1.", "conv2.", "bn1.", "layer1.", "layer2.")


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("side", [9, 17, 33])
def test_a_cell_sees_a_square_of_so_many_pixels(side, aligned) -> None:
    torch.manual_seed(0)
    backbone = BagNet(f"bagnet{side}", stages=[3]).eval()
    images = (255 * torch.rand(1, 3, 80, 80)).requires_grad_()
    backbone.forward_intermediates(images, ["layer4.2"], stride_aligned=aligned)[0][0, :, 3, 4].sum().backward()
    seen = images.grad[0].abs().sum(dim=0) > 0
    top, left = (8 * cell - (side // 2 if aligned else 0) for cell in (3, 4))
    square = torch.zeros(80, 80, dtype=torch.bool)
    square[top : top + side, left : left + side] = True
    assert torch.equal(seen, square)


@pytest.mark.parametrize("name", WIDE)
def test_parameters_are_those_of_a_resnet_50_with_smaller_kernels(name) -> None:
    """Names too: conv2 in the place of the first layer's 7 x 7 is the only one that torchvision's ResNet-50 lacks."""
    with torch.device("meta"):
        resnet = torchvision.models.resnet50()
        network = BagNet(name).build(1000)
    assert set(network.state_dict()) == {*resnet.state_dict(), "conv2.weight"}
    stem = 3 * 64 + 9 * 64 * 64 - 49 * 3 * 64
    narrow = [
        8 * (64 * 2**layer) ** 2
        for layer, count in enumerate(BLOCKS)
        for block in range(count)
        if block or layer >= WIDE[name]
    ]
    expected = sum(value.numel() for value in resnet.parameters()) + stem - sum(narrow)
    assert cost(BagNet, name)[0] == pytest.approx(expected / 1e6, abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_of_1_x_1_is_that_of_torchvision(stride) -> None:
    downsample = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 1, stride, bias=False), torch.nn.BatchNorm2d(16))
    theirs = shake(torchvision.models.resnet.Bottleneck(8, 4, stride, downsample)).eval()
    theirs.conv2.weight[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    state = theirs.state_dict()
    state["conv2.weight"] = state["conv2.weight"][:, :, 1:2, 1:2]
    ours = Bottleneck(8, 4, 1, stride).eval()
    ours.load_state_dict(state)
    x = torch.randn(2, 8, 9, 10)
    assert_close(ours(x), theirs(x))


@torch.no_grad()
def test_the_shortcut_of_a_block_of_3_x_3_begins_where_its_window_does() -> None:
    """As in the published implementation, which cuts it at the end."""
    block = shake(Bottleneck(8, 4, 3, 2)).eval()
    x = torch.randn(2, 8, 9, 12)
    y = block.bn3(block.conv3(block.bn2(block.conv2(block.bn1(block.conv1(x)).relu())).relu()))
    assert y.shape[2:] == (4, 5)
    assert_close(block(x), (y + block.downsample(x)[:, :, :4, :5]).relu())
