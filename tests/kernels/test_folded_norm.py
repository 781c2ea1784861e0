"""Frozen batch norm that convolutions apply, against torchvision's separate layer."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.ops import FrozenBatchNorm2d

from detseg import kernels
from detseg.kernels.folded_norm import fold
from detseg.modules.backbones import ResNet
from detseg.modules.backbones.norm import FrozenBatchNorm
from tests.modules.backbones.tester import images, shake


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(norm_layer=FrozenBatchNorm2d)
    for norm in network.modules():
        if isinstance(norm, FrozenBatchNorm2d):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(std=0.2)
    return shake(network)


@pytest.fixture
def ours(theirs: nn.Module) -> ResNet:
    network = ResNet("resnet18", norm="frozen", stages=[5])
    network.load_state_dict({name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")})
    return network


def test_features_and_gradients_are_those_of_torchvision(theirs, ours) -> None:
    batch = images(2, 3, 64, 64)
    x = ours.normalize(batch, None)
    for block in ours.layer_names:
        x = theirs.get_submodule(block)(x)
    (feature,) = ours(batch)
    assert_close(feature, x, rtol=0, atol=1e-5 * float(x.detach().abs().max()))
    weight = torch.randn_like(x)
    (x * weight).sum().backward()
    (feature * weight).sum().backward()
    for name, parameter in ours.named_parameters():
        expected = theirs.get_parameter(name).grad
        assert (parameter.grad - expected).norm() < 1e-5 * expected.norm(), name


def test_every_norm_of_a_resnet_is_folded_and_follows_its_state(ours) -> None:
    assert all(layer.folded for layer in ours.modules() if isinstance(layer, FrozenBatchNorm2d))
    copied = copy.deepcopy(ours)
    batch = images(1, 3, 64, 64)
    (before,) = ours(batch)
    ours.bn1.bias += 1
    assert not torch.equal(ours(batch)[0], before)
    assert torch.equal(copied(batch)[0], before)


def test_half_precision_stays_half(ours) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(images(1, 3, 64, 64))[0].dtype == torch.bfloat16


class Twice(nn.Module):
    """A convolution with a bias and one batch norm, and one whose two outputs have a batch norm each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.one, self.two, self.three = (FrozenBatchNorm(3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.three(self.first(x))
        return self.one(self.shared(x)) + self.two(self.shared(2 * x))


def test_only_a_convolution_with_one_norm_is_folded() -> None:
    torch.manual_seed(1)
    network, x = shake(Twice()), torch.randn(2, 3, 4, 4)
    expected, names = network(x), list(network.state_dict())
    fold(network, lambda: network(x))
    folded = [name for name, layer in network.named_modules() if isinstance(layer, FrozenBatchNorm) and layer.folded]
    assert folded == ["three"]
    assert list(network.state_dict()) == names
    assert_close(network(x), expected)
    with kernels.use(fast=False):
        assert torch.equal(network(x), expected)
