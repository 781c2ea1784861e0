from __future__ import annotations

import pytest
import torch

from detseg.modules.backbones import ResNet
from tests.modules.backbones.tester import PretrainedTester, images


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
