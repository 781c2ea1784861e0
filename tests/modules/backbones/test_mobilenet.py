from __future__ import annotations

import pytest
import torch

from detseg.modules.backbones import MobileNetV2
from tests.modules.backbones.tester import PretrainedTester, images


class TestMobileNetV2(PretrainedTester):
    kind = MobileNetV2
    name = "mobilenet_v2"
    nodes = ("features.3", "features.6", "features.13", "features.18")
    frozen = ("features.0.", "features.1.", "features.2.", "features.3.")


def test_size_of_the_paper() -> None:
    """Table 4: 3.4 million parameters, 1.28 of them in the classifier (torchvision's has biases: 2.224 remain)."""
    with torch.device("meta"):
        assert sum(value.numel() for value in MobileNetV2().parameters()) == 2_223_872


@torch.no_grad()
def test_fewer_stages_are_the_same_maps_of_a_shorter_network() -> None:
    whole, part = MobileNetV2().eval(), MobileNetV2(stages=[4, 1]).eval()
    part.load_state_dict({name: value for name, value in whole.state_dict().items() if name in part.state_dict()})
    features, expected = part(images(1, 3, 64, 64)), whole(images(1, 3, 64, 64))
    assert (part.strides, part.channels) == ([2, 16], [16, 96])
    assert torch.equal(features[1], expected[2])


@pytest.mark.parametrize("stages", [[], [0, 1], [6]])
def test_stages_that_do_not_exist(stages) -> None:
    with pytest.raises(ValueError, match="stages"):
        MobileNetV2(stages=stages)
