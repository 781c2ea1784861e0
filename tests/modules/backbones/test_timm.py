from __future__ import annotations

import sys

import pytest
import timm
import torch
from torch import nn
from torch.testing import assert_close

from detseg.errors import CheckpointError, ConfigError
from detseg.modules.backbones import Timm
from tests.modules.backbones.tester import BackboneTester, images, shake


class TestTimm(BackboneTester):
    kind = Timm
    arguments = {"name": "test_efficientnet"}  # tiny; its batch norm and activations are one layer
    frozen = ("network.conv_stem.", "network.bn1.", "network.blocks.0.", "network.blocks.1.")


@pytest.fixture
def whole() -> nn.Module:
    torch.manual_seed(0)
    return shake(timm.create_model("test_efficientnet")).eval()


@torch.no_grad()
@pytest.mark.parametrize("norm", [None, "batch"])
def test_a_file_of_the_whole_network_gives_its_features(whole, tmp_path, norm) -> None:
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    backbone = Timm("test_efficientnet", str(tmp_path / "weights.pth"), stages=[2, 4], norm=norm).train(norm is None)
    mean, std = (torch.tensor(whole.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    x = whole.bn1(whole.conv_stem((images(2, 3, 64, 96) / 255 - mean) / std))
    expected = []
    for block in whole.blocks:
        x = block(x)
        expected.append(x)
    for feature, stage in zip(backbone(images(2, 3, 64, 96)), (1, 3), strict=True):
        assert_close(feature, expected[stage], rtol=1e-4, atol=1e-4)


def test_weights_of_another_network(whole, tmp_path) -> None:
    torch.save(whole.state_dict(), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other.pth: .*test_resnet.*missing.*unexpected"):
        Timm("test_resnet", str(tmp_path / "other.pth"))


@pytest.mark.parametrize(
    ("name", "way_on"), [("test_resnet", "weights: pretrained"), ("resnet10t", "weights: pretrained")]
)
def test_weights_that_do_not_exist(name, way_on) -> None:
    with pytest.raises(CheckpointError, match=f"absent.pth: neither a file nor weights of {name}.*{way_on}"):
        Timm(name, "absent.pth")


def test_pretrained_weights_come_from_timm(whole, monkeypatch) -> None:
    """Its own loader, which is given what it would have fetched."""
    from timm.models import _builder

    asked = []

    def fetched(place, **_):
        asked.append(place)
        return whole.state_dict()

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", fetched)
    backbone = Timm("test_efficientnet.r160_in1k", "pretrained")
    assert asked == ["timm/test_efficientnet.r160_in1k"]
    assert torch.equal(backbone.network.conv_stem.weight, whole.conv_stem.weight)
    assert not backbone.network.conv_stem.weight.requires_grad


def test_weights_that_cannot_be_fetched(monkeypatch) -> None:
    from timm.models import _builder

    def refuse(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", refuse)
    with pytest.raises(CheckpointError, match="could not fetch weights of test_resnet: no route"):
        Timm("test_resnet", "pretrained")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5", "resnet5: timm has no such network; did you mean .*resnet50"),
        ("qqqqqqqq", "timm.list_models"),
        ("vit_tiny_patch16_224", "only images of 224 x 224 pixels"),
    ],
)
def test_networks_that_are_no_backbone(name, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Timm(name)


def test_stages_are_those_of_the_network() -> None:
    with pytest.raises(ValueError, match=r"stages \[1, 2\]: choose among 2, 3, 4, 5"):
        Timm("convnext_atto", stages=[1, 2])


@pytest.mark.parametrize("name", ["convnext_atto", "mambaout_femto", "hrnet_w18_small", "regnetx_002", "resnet18d"])
def test_families_of_other_layouts(name) -> None:
    with torch.device("meta"):
        backbone = Timm(name, stages=[3, 5])
        maps = backbone(torch.zeros(1, 3, 96, 64, dtype=torch.uint8))
    assert [tuple(feature.shape) for feature in maps] == [
        (1, backbone.channels[0], 12, 8),
        (1, backbone.channels[1], 3, 2),
    ]


def test_parameters_that_no_map_needs_do_not_train() -> None:
    """Of a part that timm leaves in the network although it is cut short; devices would wait for their gradients."""
    backbone = Timm("test_efficientnet", stages=[3])
    backbone(images(2, 3, 64, 64))[0].mean().backward()
    assert [name for name, value in backbone.named_parameters() if value.requires_grad and value.grad is None] == []
    assert not any(value.requires_grad for value in backbone.network.blocks[3].parameters())


def test_timm_is_not_installed(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"pip install 'detseg\[timm\]'"):
        Timm("resnet18")


def test_networks_whose_first_map_is_left_out_by_default() -> None:
    """dla34 gives maps of strides 2 to 32 and no stride of 1 unless asked."""
    backbone = Timm("dla34").eval()
    with torch.no_grad():
        sides = [feature.shape[2] for feature in backbone(images(1, 3, 128, 128))]
    assert sides == [128 // stride for stride in backbone.strides] == [32, 16, 8, 4]


@pytest.mark.parametrize("name", ["convmixer_768_32", "legacy_xception"])
def test_networks_whose_maps_are_of_other_sizes_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: its maps of 128 pixels"):
        Timm(name)
