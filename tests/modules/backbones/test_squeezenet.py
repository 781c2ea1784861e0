from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch.testing import assert_close
from torchvision.transforms.functional import normalize

from detseg.models import Classifier
from detseg.modules.backbones import SqueezeNet
from tests.modules.backbones.tester import (
    PretrainedTester,
    assert_centred,
    assert_channels_are_true,
    assert_is_published,
    images,
    millions,
    on_meta,
)

NAMES = ["squeezenet1_0", "squeezenet1_1"]


class TestSqueezeNet(PretrainedTester):
    kind = SqueezeNet
    name = "squeezenet1_1"
    arguments = {"name": name}
    nodes = ("features.4", "features.7", "features.12")
    frozen = ("features.0.", "features.3.", "features.4.")
    stranger = "mobilenet_v2"


@pytest.mark.parametrize("name", NAMES)
def test_is_published(name) -> None:
    """1.2 M parameters, the 4.8 MB of the paper's Table 2 in floats of four bytes."""
    classifier = on_meta(SqueezeNet, name=name)
    assert_is_published(classifier, name)
    assert millions(classifier) == pytest.approx(1.2, abs=0.05)


@pytest.mark.parametrize(("name", "channels"), [(NAMES[0], [96, 256, 512, 512]), (NAMES[1], [64, 128, 256, 512])])
def test_channels_are_true(name, channels) -> None:
    with torch.device("meta"):
        backbone = SqueezeNet(name, stages=[1, 2, 3, 4])
        assert_channels_are_true(backbone)
    assert backbone.channels == channels


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_centred(name) -> None:
    assert_centred(SqueezeNet(name, stages=[1, 2, 3, 4]))


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_real_weights_give_the_logits_of_torchvision(name) -> None:
    path = Path(__file__).parents[4] / "shared" / "weights" / f"{name}.pth"
    if not path.is_file():
        pytest.skip("no real weights in ../shared/weights")
    theirs = torchvision.models.get_model(name, weights=None).eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    batch = images(2, 3, 224, 224)
    expected = theirs(normalize(batch / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    assert expected.std() > 1
    assert_close(Classifier(SqueezeNet(name, str(path)), 1000).eval()(batch), expected, rtol=1e-4, atol=1e-3)
