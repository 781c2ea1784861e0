from __future__ import annotations

import pytest
import torch

from detseg.modules.backbones import InceptionV3
from tests.modules.backbones.tester import (
    PretrainedTester,
    assert_centred,
    assert_channels_are_true,
    assert_is_published,
    millions,
    multiply_adds,
    on_meta,
    published_maps,
)


class TestInceptionV3(PretrainedTester):
    kind = InceptionV3
    name = "inception_v3"
    options = {"init_weights": False, "transform_input": True}  # from the mean and deviation of the other networks
    nodes = ("Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c")
    frozen = ("Conv2d_1a", "Conv2d_2a", "Conv2d_2b", "Conv2d_3b", "Conv2d_4a")
    classified = (299, 299)


def test_is_published() -> None:
    """27 M parameters, 24 M of them without the classifier at the side: the abstract has less than 25 M.

    Its 5 billion multiply-adds are 5.7 in torchvision's network.
    """
    classifier = on_meta(InceptionV3)
    assert_is_published(classifier, "inception_v3", init_weights=False)
    assert millions(classifier) == pytest.approx(27.2, abs=0.05)
    assert millions(classifier) - millions(classifier.auxiliary) == pytest.approx(23.8, abs=0.05)
    assert multiply_adds(classifier, 299) == pytest.approx(5.7, abs=0.05)


def test_cells_are_centred() -> None:
    assert_centred(InceptionV3(stages=[1, 2, 3]))


def test_channels_are_true() -> None:
    with torch.device("meta"):
        assert_channels_are_true(InceptionV3(stages=[1, 2, 3, 4, 5]))
        assert InceptionV3(stages=[1, 2, 3, 4, 5]).channels == [64, 192, 288, 768, 2048]


def test_sizes_of_the_published_arithmetic() -> None:
    """Of 299 x 299: 147, 71, 35, 17 and 8 as in Table 1."""
    backbone = on_meta(InceptionV3, stages=[1, 2, 3, 4, 5]).backbone
    maps = published_maps(backbone, torch.zeros(1, 3, 299, 299, dtype=torch.uint8, device="meta"))
    assert [feature.shape[-1] for feature in maps] == [147, 71, 35, 17, 8]
