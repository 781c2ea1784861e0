from __future__ import annotations

import pytest
import torch
import torchvision

from detseg.modules.backbones import ResNeXt
from detseg.modules.backbones.weights import published
from tests.modules.backbones.cost import cost
from tests.modules.backbones.tester import PretrainedTester


class TestResNeXt(PretrainedTester):
    kind = ResNeXt
    name = "resnext50_32x4d"
    nodes = ("layer1", "layer2", "layer3", "layer4")
    frozen = ("conv1.", "bn1.", "layer1.")


@pytest.mark.parametrize(("size", "parameters", "additions"), [((50, 1, 64), 25.5, 4.1), ((50, 32, 4), 25.0, 4.2)])
def test_sizes_of_the_paper(size, parameters, additions) -> None:
    """Table 1; a ResNet-50 is one of a single path."""
    millions, billions = cost(ResNeXt, *size)
    assert millions == pytest.approx(parameters, abs=0.1)
    assert billions == pytest.approx(additions, abs=0.05)


@pytest.mark.parametrize("size", [(50, 32, 4), (101, 32, 8), (101, 64, 4)])
def test_sizes_of_the_published_weights(size) -> None:
    meta = torchvision.models.get_model_weights("resnext{}_{}x{}d".format(*size)).DEFAULT.meta
    assert cost(ResNeXt, *size) == pytest.approx((meta["num_params"] / 1e6, meta["_ops"]), abs=1e-3)


def test_weights_by_name() -> None:
    """torchvision has them for three of the networks."""
    with torch.device("meta"):
        names = [ResNeXt(**size).name for size in ResNeXt.variants()]
    assert [bool(published(name)) for name in names] == [True, False, True, True]


@pytest.mark.parametrize("arguments", [{"cardinality": 0}, {"width": 0}])
def test_no_paths(arguments) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ResNeXt(**arguments)
