from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from detseg.models import Detector, FasterRCNN
from detseg.modules import FPN, Conv5Head, TwoFCHead
from detseg.modules.backbones import ResNet
from detseg.structures import Instances
from tests.models.tester import CLASSES, DetectorTester, Operations, backward, gradients, scene, with_padding

SMALL = {"rpn_samples": 64, "samples": 64, "rpn_candidates": (200, 100), "proposals": (100, 50)}
EXHAUSTIVE = {"rpn_samples": 10**6, "rpn_positive_fraction": 1.0, "samples": 10**6, "positive_fraction": 1.0}


class TestWithPyramid(DetectorTester):
    exhaustive = EXHAUSTIVE

    @classmethod
    def make(cls, **arguments: Any) -> Detector:
        backbone = FPN(ResNet("resnet18", stages=[2, 3]), channels=32)
        return FasterRCNN(backbone, CLASSES, head=TwoFCHead(32, channels=64), **{**SMALL, **arguments})


class TestWithOneMap(DetectorTester):
    exhaustive = EXHAUSTIVE

    @classmethod
    def make(cls, **arguments: Any) -> Detector:
        head = TwoFCHead(64, channels=128)
        settings = {"anchor_sizes": [[16, 32, 64]], **SMALL, **arguments}
        return FasterRCNN(ResNet("resnet18", stages=[2]), CLASSES, head=head, **settings)


@pytest.fixture
def network() -> Detector:
    torch.manual_seed(0)
    network = TestWithPyramid.make(**EXHAUSTIVE).eval()
    torch.nn.init.normal_(network.box_head.classes.weight, std=0.5)  # sure enough of itself to tell regions apart
    return network


def test_losses_have_names() -> None:
    losses = TestWithPyramid.make().loss(scene())
    assert list(losses) == ["rpn_objectness", "rpn_box", "box_class", "box_delta"]


@torch.no_grad()
def test_given_proposals_are_used(network) -> None:
    batch = scene()
    one = Instances(torch.tensor([[[8.0, 10, 50, 42]], [[20, 36, 56, 76]]]), torch.tensor([[True], [False]]))
    boxes, valid, _, _, _ = network(batch.images, batch.sizes, one)
    assert valid.any(dim=1).tolist() == [True, False]
    assert_close(boxes[0, 0], one.boxes[0, 0], rtol=0, atol=2)  # an untrained head hardly moves it


@torch.no_grad()
def test_padding_of_the_proposals_changes_nothing(network) -> None:
    network, batch = network.double(), scene()
    features = network.backbone(batch.images, batch.sizes)
    proposals = network.rpn.propose(network.rpn(features, (96, 96)), batch.sizes, 100, 20)
    expected = network(batch.images, batch.sizes, proposals)
    detections = network(batch.images, batch.sizes, with_padding(proposals))
    assert expected.valid.sum() > 10
    assert torch.equal(detections.valid, expected.valid)
    assert_close(detections.boxes, expected.boxes, rtol=0, atol=1e-3)
    assert_close(detections.scores, expected.scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "small", "large"),
    [("rpn_nms", 0.1, 0.9), ("rpn_samples", 4, 10**6), ("samples", 2, 10**6), ("rpn_iou", (0.1, 0.2), (0.3, 0.9))],
)
def test_settings_reach_the_loss(setting, small, large) -> None:
    one, other = ({**EXHAUSTIVE, setting: value} for value in (small, large))
    losses = []
    for settings in (one, other):
        torch.manual_seed(0)
        losses.append(sum(TestWithPyramid.make(**settings).eval().loss(scene()).values()))
    assert losses[0] != losses[1]


@pytest.mark.parametrize(("setting", "value"), [("detections", 3), ("candidates", 3), ("score_threshold", 0.9)])
@torch.no_grad()
def test_settings_reach_the_detections(network, setting, value) -> None:
    batch = scene()
    before = network(batch.images, batch.sizes).valid.sum(dim=1)
    state = network.state_dict()
    network = TestWithPyramid.make(**EXHAUSTIVE, **{setting: value}).eval()
    network.load_state_dict(state)
    detections = network(batch.images, batch.sizes)
    assert (detections.valid.sum(dim=1) < before).all()
    if setting == "score_threshold":
        assert (detections.scores[detections.valid] > 0.9).all()
    else:
        assert detections.valid.sum(dim=1).max() <= 3


@torch.no_grad()
def test_inference_does_not_wait_for_the_device(network, monkeypatch) -> None:
    monkeypatch.setattr("detseg.models.faster_rcnn.trim", lambda proposals: proposals)  # which asks on a CPU alone
    batch = scene()
    with Operations() as operations:
        detections = network(batch.images, batch.sizes)
    assert detections.valid.any()
    assert operations.waiting == []


def test_roi_pool_trains_and_detects() -> None:
    network, batch = TestWithPyramid.make(pooling="roi_pool"), scene()
    backward(network, batch)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients(network).values())
    assert network(batch.images, batch.sizes).boxes.isfinite().all()


def test_last_stage_of_a_resnet_as_the_head_of_a_single_map() -> None:
    """ResNet, appendix A."""
    settings = {**SMALL, "samples": 4, "proposals": (8, 4), "anchor_sizes": [[32, 64]]}
    network = FasterRCNN(ResNet("resnet50", stages=[4]), CLASSES, head=Conv5Head(), **settings)
    batch = scene()
    backward(network, batch)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients(network).values())
    assert network.eval()(batch.images, batch.sizes).boxes.shape == (2, 100, 4)


@pytest.mark.parametrize(
    ("stages", "arguments", "message"),
    [
        ([2, 3], {}, r"\[64, 128\] channels.*FPN"),
        ([3], {"head": TwoFCHead(64, channels=8)}, "takes 64 channels.* gives 128"),
        ([3], {"anchor_sizes": [[32], [64]]}, "2 lists.* 1 maps"),
    ],
)
def test_parts_that_do_not_fit(stages, arguments, message) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        FasterRCNN(ResNet("resnet18", stages=stages), CLASSES, **arguments)


def test_the_extra_map_of_a_pyramid_is_for_anchors_alone() -> None:
    """FPN, section 4.2: there is no P6 in the features of regions, whatever its stride."""
    with torch.device("meta"):
        assert TestWithPyramid.make().strides == [4, 8]
        assert FasterRCNN(FPN(ResNet("resnet18")), CLASSES).strides == [4, 8, 16, 32]
        assert TestWithOneMap.make().strides == [4]


@pytest.mark.parametrize("setting", [{"samples": 0}, {"detections": 0}, {"proposals": (100, 0)}])
def test_nothing_cannot_be_asked_for(setting) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=f"{next(iter(setting))} is 0"):
        TestWithPyramid.make(**setting)


def test_maps_that_do_not_fit() -> None:
    with torch.device("meta"):
        gap, pyramid = FPN(ResNet("resnet18", stages=[2, 4])), FPN(ResNet("resnet18", stages=[2, 3]))
        with pytest.raises(ValueError, match=r"strides \[4, 16\]"):
            FasterRCNN(gap, CLASSES)
        with pytest.raises(ValueError, match=r"\[32, 64\].* same number"):
            FasterRCNN(pyramid, CLASSES, anchor_sizes=[[32], [32, 64], [64]])
