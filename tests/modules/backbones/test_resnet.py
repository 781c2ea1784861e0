from __future__ import annotations

import pytest
import torch
import torchvision
from torchvision.models.resnet import BasicBlock, Bottleneck

from detseg.models import Classifier
from detseg.modules.backbones import ResNet
from detseg.modules.backbones.resnet import PlainBlock
from tests.modules.backbones.cost import classified, cost
from tests.modules.backbones.tester import BackboneTester, PretrainedTester, images, shake


class TestResNet18(PretrainedTester):
    kind = ResNet
    name = "resnet18"
    arguments = {"name": name}
    nodes = ("layer1", "layer2", "layer3", "layer4")
    frozen = ("conv1.", "bn1.", "layer1.")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet18", 11.2), ("resnet34", 21.3), ("resnet50", 23.5), ("resnet101", 42.5), ("resnet152", 58.1)],
)
def test_sizes_of_the_paper(name, parameters) -> None:
    """Millions of parameters without the classifier, from torchvision's published tables."""
    with torch.device("meta"):
        backbone = ResNet(name)
        shapes = [feature.shape[1] for feature in backbone(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))]
    assert sum(value.numel() for value in backbone.parameters()) / 1e6 == pytest.approx(parameters, abs=0.05)
    assert shapes == backbone.channels


@torch.no_grad()
def test_fewer_stages_are_the_same_maps_of_a_shorter_network() -> None:
    whole = ResNet("resnet18").eval()
    part = ResNet("resnet18", stages=[4, 2]).eval()
    part.load_state_dict({name: value for name, value in whole.state_dict().items() if "layer4" not in name})
    features, expected = part(images(1, 3, 64, 64)), whole(images(1, 3, 64, 64))
    assert (part.strides, part.channels) == ([4, 16], [64, 256])
    assert torch.equal(features[0], expected[0])
    assert torch.equal(features[1], expected[2])


@pytest.mark.parametrize("stages", [[], [0, 2], [6]])
def test_stages_that_do_not_exist(stages) -> None:
    with pytest.raises(ValueError, match="stages"):
        ResNet("resnet18", stages=stages)


class TestPlain18(BackboneTester):
    kind = ResNet
    arguments = {"name": "plain18"}
    frozen = ("conv1.", "bn1.", "layer1.")


@pytest.mark.parametrize(("depth", "additions"), [(18, 1.8), (34, 3.6), (50, 3.8), (101, 7.6), (152, 11.3)])
def test_multiply_adds_of_the_paper(depth, additions) -> None:
    """Table 1. A bottleneck of the paper has its stride in the first convolution, ours in the second."""
    with torch.device("meta"):
        classifier = Classifier(ResNet(f"resnet{depth}"), 1000)
    for block in classifier.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    assert classified(classifier)[1] == pytest.approx(additions, abs=0.07)


@pytest.mark.parametrize(("name", "additions"), [("resnet50", 4.1), ("resnet101", 7.8), ("resnet152", 11.5)])
def test_multiply_adds_with_the_stride_in_the_middle(name, additions) -> None:
    assert cost(ResNet, name)[1] == pytest.approx(additions, abs=0.05)


@pytest.mark.parametrize("depth", [18, 34])
def test_a_plain_network_is_a_resnet_without_shortcuts(depth) -> None:
    with torch.device("meta"):
        plain, residual = ResNet(f"plain{depth}"), ResNet(f"resnet{depth}")
    shapes = {name: value.shape for name, value in residual.state_dict().items() if "downsample" not in name}
    assert {name: value.shape for name, value in plain.state_dict().items()} == shapes
    # The shortcuts of option B: 1 x 1, at the three changes of size.
    rows = [(64, 128, 28), (128, 256, 14), (256, 512, 7)]
    parameters = sum(inputs * outputs + 2 * outputs for inputs, outputs, _ in rows)
    additions = sum(inputs * outputs * side**2 for inputs, outputs, side in rows)
    (ours, sum_of_ours), (theirs, sum_of_theirs) = (cost(ResNet, f"{kind}{depth}") for kind in ("plain", "resnet"))
    assert theirs - ours == pytest.approx(parameters / 1e6)
    assert sum_of_theirs - sum_of_ours == pytest.approx(additions / 1e9)


@torch.no_grad()
def test_a_plain_block_adds_no_identity() -> None:
    residual = shake(BasicBlock(4, 4)).eval()
    plain = PlainBlock(4, 4).eval()
    plain.load_state_dict(residual.state_dict())
    found = []
    residual.bn2.register_forward_hook(lambda *arguments: found.append(arguments[2].clone()))
    x = torch.randn(2, 4, 8, 8).relu()
    assert not torch.equal(residual(x), plain(x))
    assert torch.equal(plain(x), found[0].relu())


def test_a_name_that_is_none_of_the_family() -> None:
    """As a stranger's checkpoint may have it."""
    with pytest.raises(ValueError, match="fasterrcnn_resnet50_fpn: choose among plain18, plain34, resnet18"):
        ResNet("fasterrcnn_resnet50_fpn")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_residual_branches_start_at_zero_as_in_torchvision(name) -> None:
    """Goyal et al. 2017, section 5.1."""
    theirs = torchvision.models.get_model(name, weights=None, zero_init_residual=True)
    for network, zeros in ((ResNet(name, zero_init_residual=True), True), (ResNet(name), False)):
        for key, value in network.named_parameters():
            if "bn" in key or "downsample.1" in key:
                expected = dict(theirs.named_parameters())[key] if zeros else torch.full_like(value, "weight" in key)
                assert torch.equal(value, expected), key


@torch.no_grad()
def test_an_initial_block_is_its_shortcut() -> None:
    backbone = ResNet("resnet18", stages=[3], zero_init_residual=True)
    x = torch.randn(2, 64, 8, 8).relu()
    assert torch.equal(backbone.layer1(x), x)
    assert torch.equal(backbone.layer2[0](x), backbone.layer2[0].downsample(x).relu())
    assert not torch.equal(ResNet("resnet18", stages=[2]).layer1(x), x)
