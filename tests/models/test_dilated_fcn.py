"""The dilated FCN against torchvision's, with the same random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from torchvision.models.segmentation import fcn_resnet50, fcn_resnet101
from torchvision.transforms.functional import normalize

from detseg.errors import CheckpointError
from detseg.models import DilatedFCN
from detseg.modules.backbones import ResNet
from detseg.structures import IGNORE_INDEX
from detseg.weights.torchvision import segmenter_from_torchvision, segmenter_to_torchvision
from tests.models.detectors import SmallBackbone
from tests.models.segmenters import CLASSES, SegmenterTester, scene
from tests.modules.backbones.tester import shake


class TestDilatedFCN(SegmenterTester):
    @classmethod
    def make(cls, **arguments: Any) -> DilatedFCN:
        return DilatedFCN(SmallBackbone([1, 2], width=32), CLASSES, **arguments)


def dilated(name: Any = "resnet50", **arguments: Any) -> DilatedFCN:
    return DilatedFCN(ResNet(name, stages=[4, 5], output_stride=8), CLASSES, **arguments)


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(0)
    return shake(fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)).eval()


@pytest.mark.usefixtures("quick_initialization")
def test_logits_losses_and_gradients_are_those_of_torchvision(theirs: nn.Module) -> None:
    ours = dilated().eval()
    ours.load_state_dict(segmenter_from_torchvision(theirs.state_dict()))
    batch = scene()
    batch = batch._replace(image_sizes=torch.tensor([(96, 96)] * 2))  # theirs knows of no padding
    outputs = theirs(normalize(batch.images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    assert outputs["out"].std() > 0.01
    losses, logits = ours.validate(batch)
    assert_close(logits, outputs["out"], rtol=1e-4, atol=1e-4)
    expected = {
        name: F.cross_entropy(value, batch.semantic, ignore_index=IGNORE_INDEX) for name, value in outputs.items()
    }
    assert_close(losses["loss_pixels"], expected["out"], rtol=1e-4, atol=1e-5)
    assert_close(losses["loss_auxiliary"], 0.5 * expected["aux"], rtol=1e-4, atol=1e-5)

    torch.stack(list(losses.values())).sum().backward()
    (expected["out"] + 0.5 * expected["aux"]).backward()
    found = segmenter_to_torchvision({name: value.grad for name, value in ours.named_parameters()})
    for name, value in theirs.named_parameters():
        assert (found[name] - value.grad).norm() < 1e-2 * value.grad.norm() + 1e-7, name


@pytest.mark.parametrize("auxiliary", [True, False])
def test_round_trip(auxiliary: bool) -> None:
    with torch.device("meta"):
        state = fcn_resnet101(weights=None, weights_backbone=None, num_classes=5, aux_loss=auxiliary).state_dict()
    state = {name: torch.rand(value.shape).to(value.dtype) for name, value in state.items()}
    ours = segmenter_from_torchvision(state)
    with torch.device("meta"):
        model = DilatedFCN(
            ResNet("resnet101", stages=[4, 5], output_stride=8), 5, auxiliary_weight=0.5 if auxiliary else 0
        )
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    back = segmenter_to_torchvision(ours)
    assert list(back) == list(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_foreign_weights_are_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match=r"decoder\.weight: not a tensor of an FCN"):
        segmenter_from_torchvision({"decoder.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"classifier\.4\.weight is missing"):
        segmenter_from_torchvision({"backbone.conv1.weight": torch.zeros(1)})


def test_strides_of_a_dilated_backbone() -> None:
    with torch.device("meta"):
        for output_stride, strides in ((8, [4, 8, 8, 8]), (16, [4, 8, 16, 16]), (32, [4, 8, 16, 32])):
            backbone = ResNet("resnet50", output_stride=output_stride)  # type: ignore[arg-type]
            assert backbone.strides == strides
            maps = backbone(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))
            assert [(64 // one.shape[2], 96 // one.shape[3]) for one in maps] == [(one, one) for one in strides]


def test_what_cannot_be_built() -> None:
    for name, stride in (("resnet18", 8), ("plain34", 16), ("resnet50", 4)):
        with pytest.raises(ValueError, match=f"output_stride {stride}: must be 32, or with bottlenecks"):
            ResNet(name, output_stride=stride)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the auxiliary head needs a second map"):
        DilatedFCN(ResNet("resnet18", stages=[5]), CLASSES)
    assert DilatedFCN(ResNet("resnet18", stages=[5]), CLASSES, auxiliary_weight=0).auxiliary is None
