from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from detseg.models import Classifier
from detseg.modules import FPN
from detseg.modules.backbones import Backbone, MobileNetV2, MobileNetV3, ResNet
from tests.modules.backbones.tester import BackboneTester, images


class TestPyramid(BackboneTester):
    frozen = ("backbone.features.0.", "backbone.features.1.", "backbone.features.2.", "backbone.features.3.")
    compiled = {}

    def test_is_a_classifier(self) -> None:
        with pytest.raises(ValueError, match="a feature pyramid is not a classifier"):
            Classifier(self.make(), num_classes=3)

    @classmethod
    def make(cls, **arguments: Any) -> Backbone:
        return FPN(MobileNetV2(stages=[3, 4], **arguments), channels=8)


@torch.no_grad()
def test_maps_are_those_of_torchvision() -> None:
    ours = FPN(ResNet("resnet18"), channels=16).eval()
    theirs = FeaturePyramidNetwork(ours.backbone.channels, 16, LastLevelMaxPool())
    for level in range(4):
        theirs.inner_blocks[level][0].load_state_dict(ours.lateral_convs[level].state_dict())
        theirs.layer_blocks[level][0].load_state_dict(ours.output_convs[level].state_dict())
    batch = images(2, 3, 100, 150)  # maps of odd sides, that a map of half the side does not cover
    expected = theirs(OrderedDict(enumerate(map(torch.clone, ours.backbone(batch)))))
    for feature, other in zip(ours(batch), expected.values(), strict=True):
        assert_close(feature, other, rtol=1e-5, atol=1e-5)


def test_a_map_of_twice_the_stride_is_added() -> None:
    with torch.device("meta"):
        assert FPN(ResNet("resnet18")).strides == [4, 8, 16, 32, 64]


def test_of_maps_with_the_same_stride_regions_use_the_finer_one() -> None:
    with torch.device("meta"):
        pyramid = FPN(MobileNetV3(stages=[4, 5], return_stage_start=True), channels=8)
    assert (pyramid.strides, pyramid.num_rpn_only_levels) == ([16, 32, 32, 64], 2)


@torch.no_grad()
def test_batch_norm_after_each_layer_as_in_torchvision() -> None:
    ours = FPN(ResNet("resnet18"), channels=16, norm="batch").eval()
    channels, norm = ours.backbone.channels, torch.nn.BatchNorm2d
    theirs = FeaturePyramidNetwork(channels, 16, LastLevelMaxPool(), norm_layer=norm).eval()
    for level in range(4):
        for own, other in (
            (ours.lateral_convs[level], theirs.inner_blocks[level]),
            (ours.output_convs[level], theirs.layer_blocks[level]),
        ):
            for value in (own.norm.weight, own.norm.bias, own.norm.running_mean):
                torch.nn.init.normal_(value)
            other[0].weight.copy_(own.weight)
            other[1].load_state_dict(own.norm.state_dict())
            assert own.bias is None
    batch = images(2, 3, 64, 96)
    expected = theirs(OrderedDict(enumerate(map(torch.clone, ours.backbone(batch)))))
    for feature, other in zip(ours(batch), expected.values(), strict=True):
        assert_close(feature, other, rtol=1e-5, atol=1e-5)
