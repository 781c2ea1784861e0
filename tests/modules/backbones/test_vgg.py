from __future__ import annotations

import pytest
import torch

from detseg.errors import CheckpointError
from detseg.modules.backbones import VGG
from tests.modules.backbones.tester import (
    BackboneTester,
    PretrainedTester,
    assert_channels_are_true,
    assert_is_published,
    images,
    millions,
    multiply_adds,
    on_meta,
)

TORCHVISION = [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")]
OWN = ["vgg11_lrn", "vgg16_1x1"]


class TestVGG11(PretrainedTester):
    kind = VGG
    name = "vgg11"
    arguments = {"name": name, "stages": [1, 2, 3, 4, 5]}
    nodes = ("features.4", "features.9", "features.14", "features.19", "features.20")
    frozen = ("features.0.", "features.3.", "features.6.", "features.8.")
    default_frozen = ("features.0.", "features.3.")
    rounds_down = True
    narrow = True


class TestVGG11LRN(BackboneTester):
    kind = VGG
    arguments = {"name": "vgg11_lrn"}
    frozen = ("features.0.", "features.4.", "features.7.", "features.9.")
    rounds_down = True
    narrow = True


@pytest.mark.parametrize("name", TORCHVISION)
def test_is_published(name) -> None:
    assert_is_published(on_meta(VGG, name=name), name)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("vgg11", 133), ("vgg11_lrn", 133), ("vgg13", 133), ("vgg16_1x1", 134), ("vgg16", 138), ("vgg19", 144)],
)
def test_parameters_of_table_2(name, parameters) -> None:
    assert round(millions(on_meta(VGG, name=name))) == parameters


@pytest.mark.parametrize(("name", "billions"), [("vgg16", 15.5), ("vgg19", 19.6)])
def test_multiply_adds(name, billions) -> None:
    """19.6 billion is what the paper of ResNet (section 3.3) compares itself with."""
    assert multiply_adds(on_meta(VGG, name=name)) == pytest.approx(billions, abs=0.06)


@pytest.mark.parametrize("name", TORCHVISION + OWN)
def test_channels_are_true(name) -> None:
    with torch.device("meta"):
        backbone = VGG(name, stages=[1, 2, 3, 4, 5])
        assert_channels_are_true(backbone)
    assert backbone.channels == [128, 256, 512, 512, 512]


def test_shapes_of_vgg16() -> None:
    """Table 1, column D, for 224 x 224: what every pooling gives."""
    backbone = on_meta(VGG, name="vgg16").backbone
    poolings = ["features.4", "features.9", "features.16", "features.23", "features.30"]
    maps = backbone.forward_intermediates(torch.zeros(1, 3, 224, 224, dtype=torch.uint8, device="meta"), poolings)
    assert [tuple(feature.shape[1:]) for feature in maps] == [
        (64, 112, 112),
        (128, 56, 56),
        (256, 28, 28),
        (512, 14, 14),
        (512, 7, 7),
    ]


@pytest.mark.parametrize("name", ["vgg16_1x1", "vgg16"])
def test_columns_c_and_d_differ_in_the_third_convolution_of_three_blocks(name) -> None:
    with torch.device("meta"):
        kernels = [value.shape[-1] for value in VGG(name).parameters() if value.ndim == 4]
    third = 1 if name == "vgg16_1x1" else 3
    assert kernels == [3, 3, 3, 3, 3, 3, third, 3, 3, third, 3, 3, third]


@torch.no_grad()
def test_local_response_norm_is_that_of_alexnet() -> None:
    """Krizhevsky et al. 2012, section 3.3: k = 2, n = 5, alpha = 1e-4, beta = 0.75, over neighbouring channels."""
    with torch.device("meta"):
        kinds = [type(layer).__name__ for layer in VGG("vgg11_lrn").features]
    assert kinds[:4] == ["Conv2d", "ReLU", "LocalResponseNorm", "MaxPool2d"]
    assert kinds.count("LocalResponseNorm") == 1
    backbone = VGG("vgg11_lrn", stages=[1])
    before, after = backbone.forward_intermediates(255 * (images(1, 3, 6, 5) // 128), ["features.1", "features.2"])
    before = 1000 * before
    after = backbone.features[2](before)
    for i in range(64):
        energy = before[0, max(0, i - 2) : min(63, i + 2) + 1].square().sum(0)
        assert energy.max() > 1e4
        torch.testing.assert_close(after[0, i], before[0, i] / (2 + 1e-4 * energy) ** 0.75)


def test_weights_of_another_normalisation() -> None:
    with pytest.raises(CheckpointError, match=r"IMAGENET1K_FEATURES: .*normalisation"):
        VGG("vgg16", "IMAGENET1K_FEATURES")
