from __future__ import annotations

import pytest
import torch

from detseg.modules.backbones import DenseNet
from tests.modules.backbones.tester import (
    PretrainedTester,
    assert_channels_are_true,
    assert_is_published,
    images,
    millions,
    on_meta,
)


class TestDenseNet121(PretrainedTester):
    kind = DenseNet
    name = "densenet121"
    arguments = {"name": name}
    nodes = ("features.transition1.relu", "features.transition2.relu", "features.transition3.relu", "relu")
    frozen = ("features.conv0.", "features.norm0.", "features.denseblock1.", "features.transition1.norm.")
    rounds_down = True

    def test_names_with_dots_as_they_were_published(self, theirs, weights, tmp_path) -> None:
        state = theirs.state_dict()
        for old, new in (("norm.1", "norm1"), ("norm.2", "norm2"), ("conv.1", "conv1"), ("conv.2", "conv2")):
            state = {name.replace(f".{new}.", f".{old}."): value for name, value in state.items()}
        assert "features.denseblock1.denselayer1.norm.1.weight" in state
        torch.save(state, tmp_path / "dotted.pth")
        expected = self.make(weights=weights).state_dict()
        for name, value in self.make(weights=str(tmp_path / "dotted.pth")).state_dict().items():
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    ("name", "parameters", "channels"),
    [
        ("densenet121", 8.0, [64, 256, 512, 1024, 1024]),
        ("densenet169", 14.1, [64, 256, 512, 1280, 1664]),
        ("densenet201", 20.0, [64, 256, 512, 1792, 1920]),  # 20 M: section 4.4
        ("densenet161", 28.7, [96, 384, 768, 2112, 2208]),
    ],
)
def test_is_published(name, parameters, channels) -> None:
    """Channels of Table 1: those before a dense block, and the growth rate, 32 or 48, for each of its layers."""
    classifier = on_meta(DenseNet, name=name, stages=[1, 2, 3, 4, 5])
    assert_is_published(classifier, name)
    assert millions(classifier) == pytest.approx(parameters, abs=0.05)
    assert_channels_are_true(classifier.backbone)
    assert classifier.backbone.channels == channels


@torch.no_grad()
def test_maps_are_normalised_and_rectified() -> None:
    """Whatever the scale of what the blocks give."""
    torch.manual_seed(0)
    backbone = DenseNet("densenet121").train()
    for feature in backbone(images(4, 3, 64, 64)):
        assert feature.min() == 0
        assert feature.mean() == pytest.approx(0.4, abs=0.1)  # of a rectified normal variable: 1 / sqrt(2 pi)
