from __future__ import annotations

import pytest
import torch

from detseg.modules.backbones import AlexNet
from tests.modules.backbones.tester import (
    PretrainedTester,
    assert_centred,
    assert_channels_are_true,
    assert_is_published,
    millions,
    on_meta,
    published_maps,
)


class TestAlexNet(PretrainedTester):
    kind = AlexNet
    name = "alexnet"
    nodes = ("features.1", "features.4", "features.11", "features.12")
    frozen = ("features.0.",)
    narrow = True


def test_is_published() -> None:
    """61 M parameters. The paper has 60 M, since its convolutions 2, 4 and 5 see half of the maps on each device."""
    classifier = on_meta(AlexNet)
    assert_is_published(classifier, "alexnet")
    assert millions(classifier) == pytest.approx(61.1, abs=0.05)


def test_cells_are_centred() -> None:
    assert_centred(AlexNet(stages=[2, 3, 4]))


@pytest.mark.parametrize("size", [64, 224])
def test_channels_are_true(size) -> None:
    with torch.device("meta"):
        assert_channels_are_true(AlexNet(), size)
        assert AlexNet().channels == [64, 192, 256, 256]


def test_published_arithmetic_is_not_aligned() -> None:
    """55 x 55, 27 x 27, 13 x 13 and 6 x 6 of 224 x 224."""
    backbone = on_meta(AlexNet).backbone
    maps = published_maps(backbone, torch.zeros(1, 3, 224, 224, dtype=torch.uint8, device="meta"))
    assert [feature.shape[-1] for feature in maps] == [55, 27, 13, 6]
