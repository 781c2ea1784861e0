from __future__ import annotations

from urllib.error import URLError

import pytest
import torch
import torchvision

from detseg.errors import CheckpointError
from detseg.modules.backbones import MobileNetV1, MobileNetV2, MobileNetV3
from tests.modules.backbones.cost import cost
from tests.modules.backbones.tester import BackboneTester, PretrainedTester, images


class TestMobileNetV1(BackboneTester):
    kind = MobileNetV1
    arguments = {"alpha": 0.25}
    frozen = ("features.0.", "features.1.", "features.2.", "features.3.")


class TestMobileNetV3(PretrainedTester):
    kind = MobileNetV3
    name = "mobilenet_v3_small"
    arguments = {"name": name}
    nodes = ("features.1", "features.3", "features.8", "features.12")
    frozen = ("features.0.", "features.1.")


class TestMobileNetV2(PretrainedTester):
    kind = MobileNetV2
    name = "mobilenet_v2"
    nodes = ("features.3", "features.6", "features.13", "features.18")
    frozen = ("features.0.", "features.1.", "features.2.", "features.3.")


def test_size_of_the_paper() -> None:
    """Table 4: 3.4 million parameters, 1.28 of them in the classifier (torchvision's has biases: 2.224 remain)."""
    with torch.device("meta"):
        assert sum(value.numel() for value in MobileNetV2().parameters()) == 2_223_872
    assert cost(MobileNetV2)[1] == pytest.approx(0.300, abs=0.001)


@pytest.mark.parametrize(
    ("alpha", "parameters", "additions"), [(1.0, 4.2, 569), (0.75, 2.6, 325), (0.5, 1.3, 149), (0.25, 0.5, 41)]
)
def test_sizes_of_the_first_version(alpha, parameters, additions) -> None:
    """MobileNetV1, table 6."""
    millions, billions = cost(MobileNetV1, alpha)
    assert millions == pytest.approx(parameters, abs=0.05)
    assert 1000 * billions == pytest.approx(additions, abs=0.6)


@pytest.mark.parametrize(
    ("name", "parameters", "additions"), [("mobilenet_v3_large", 5.4, 219), ("mobilenet_v3_small", 2.5, 56)]
)
def test_sizes_of_the_third_version(name, parameters, additions) -> None:
    """MobileNetV3, table 3."""
    millions, billions = cost(MobileNetV3, name)
    assert millions == pytest.approx(parameters, abs=0.1)
    assert 1000 * billions == pytest.approx(additions, abs=3)


@pytest.mark.parametrize("norm", ["frozen", "batch", "sync"])
def test_batch_norm_of_the_third_version_keeps_its_epsilon(norm) -> None:
    """Of torchvision, which is not that of PyTorch."""
    layers = [layer for layer in MobileNetV3("mobilenet_v3_small", norm=norm).modules() if hasattr(layer, "eps")]
    assert len(layers) == 34
    assert {layer.eps for layer in layers} == {0.001}


@pytest.mark.parametrize("alpha", [0.0, -1.0, 0.03])
def test_no_channel_left(alpha) -> None:
    with pytest.raises(ValueError, match="no channel"):
        MobileNetV1(alpha)


@pytest.mark.parametrize(("name", "channels"), [("mobilenet_v3_large", [16, 24, 40, 112, 960])])
def test_stages_of_the_large_third_version(name, channels) -> None:
    with torch.device("meta"):
        backbone = MobileNetV3(name, stages=[1, 2, 3, 4, 5])
        maps = backbone(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))
    assert [tuple(feature.shape) for feature in maps] == [
        (1, width, 64 // stride, 96 // stride) for width, stride in zip(channels, (2, 4, 8, 16, 32), strict=True)
    ]


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


def test_the_map_that_a_stage_begins_with() -> None:
    """torchvision's detectors take the blocks 13 and 16 of 0 to 16, both of stride 32."""
    with torch.device("meta"):
        backbone = MobileNetV3("mobilenet_v3_large", stages=[4, 5], return_stage_start=True)
        maps = backbone(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))
    assert (backbone.strides, backbone.channels) == ([16, 32, 32], [112, 160, 960])
    assert [tuple(feature.shape[1:]) for feature in maps] == [(112, 4, 6), (160, 2, 3), (960, 2, 3)]


def test_weights_that_cannot_be_fetched(monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torchvision.models.MobileNet_V2_Weights, "get_state_dict", fail)
    with pytest.raises(CheckpointError, match=r"could not fetch http.*mobilenet_v2.*no network.*; pass a local file"):
        MobileNetV2(weights="IMAGENET1K_V1")
