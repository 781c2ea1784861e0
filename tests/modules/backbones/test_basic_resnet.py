from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.testing import assert_close

from detseg.models import Classifier
from detseg.modules.backbones import BasicResNet, ResNet
from tests.modules.backbones.tester import BackboneTester, images, shake


class TestBasicResNet(BackboneTester):
    kind = BasicResNet
    arguments = {"blocks": (1, 2, 1, 1), "width": 4, "shortcuts": "A"}
    frozen = ("conv1.", "bn1.", "layer1.")


@torch.no_grad()
@pytest.mark.parametrize(
    ("blocks", "width", "shortcuts", "name"),
    [((2, 2, 2, 2), 64, "B", "resnet18"), ((3, 4, 6, 3), 64, "B", "resnet34"), ((2, 2, 2, 2), 64, "none", "plain18")],
)
def test_published_networks_are_among_them(blocks, width, shortcuts, name) -> None:
    backbone, published = BasicResNet(blocks, width, shortcuts).eval(), shake(ResNet(name)).eval()
    backbone.load_state_dict(published.state_dict())
    for feature, expected in zip(backbone(images(1, 3, 64, 64)), published(images(1, 3, 64, 64)), strict=True):
        assert torch.equal(feature, expected)


def test_initial_weights_are_those_of_torchvision() -> None:
    theirs = torchvision.models.resnet18(zero_init_residual=True)
    torch.manual_seed(0)
    ours = dict(BasicResNet(zero_init_residual=True).named_parameters())
    for name, value in theirs.named_parameters():
        if name.startswith(("bn", "layer")):
            assert_close(ours[name].mean(), value.mean(), rtol=0, atol=0.003)
            assert_close(ours[name].std(correction=0), value.std(correction=0), rtol=0.05, atol=0)


@pytest.mark.parametrize(("shortcuts", "parameters"), [("none", 0), ("A", 0), ("B", 3), ("C", 16)])
def test_options_of_table_3(shortcuts, parameters) -> None:
    """ResNet-34 projects by B where the size changes, and by C in each of its 16 blocks."""
    with torch.device("meta"):
        backbone = BasicResNet((3, 4, 6, 3), 4, shortcuts)
    assert (
        sum(layer.kernel_size == (1, 1) for layer in backbone.modules() if isinstance(layer, nn.Conv2d)) == parameters
    )


@torch.no_grad()
def test_identity_of_option_a() -> None:
    """The input at every second cell, and zeros in the new channels."""
    block = BasicResNet((1, 1, 1, 1), 3, "A", zero_init_residual=True).layer2[0]
    x = torch.randn(2, 3, 7, 8).relu()
    expected = F.pad(F.max_pool2d(x, 1, stride=2), (0, 0, 0, 0, 0, 3))
    assert torch.equal(block(x), expected)


def test_a_deep_network_passes_its_gradient_on_and_a_plain_one_does_not() -> None:
    """He et al. 2015, section 4.2: 1,202 layers are as easy to optimise; here 122, of two channels."""
    norms = {}
    for shortcuts in ("B", "none"):
        torch.manual_seed(0)
        network = Classifier(BasicResNet((15, 15, 15, 15), 2, shortcuts, zero_init_residual=shortcuts == "B"), 2)
        F.cross_entropy(network(images(4, 3, 32, 32)), torch.tensor([0, 1, 0, 1])).backward()
        norms[shortcuts] = float(network.backbone.conv1.weight.grad.norm())
    assert 1e-3 < norms["B"] < 1e3
    assert not norms["none"] < 1e6


def test_the_name_counts_the_layers_with_weights() -> None:
    """As in table 1: ResNet-34 has 33 convolutions, beside its projections, and a classifier."""
    with torch.device("meta"):
        backbone = BasicResNet((3, 4, 6, 3), 16, "none")
    assert backbone.name == "plain34_16"
    assert sum(isinstance(layer, nn.Conv2d) for layer in backbone.modules()) == 33


@pytest.mark.parametrize("arguments", [{"blocks": (2, 2, 2)}, {"blocks": (1, 0, 1, 1)}, {"width": 0}])
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"blocks \[.*\] must be four numbers and width \d+ one, all at least 1"):
        BasicResNet(**arguments)
