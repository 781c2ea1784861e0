from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from detseg.errors import DataError
from detseg.models import Detector, FastRCNN
from detseg.modules import FPN, TwoFCHead
from detseg.modules.backbones import ResNet
from detseg.structures import Instances
from tests.models.tester import CLASSES, DetectorTester, backward, detect, gradients, scene, with_padding

# A network that is to find two objects and nothing else must have seen what touches neither as background.
SMALL = {"samples": 32, "background_iou": 0.0}
EXHAUSTIVE = {"samples": 10**6, "positive_fraction": 1.0, "background_iou": 0.1}


class TestWithOneMap(DetectorTester):
    needs_proposals = True
    exhaustive = EXHAUSTIVE

    @classmethod
    def make(cls, **arguments: Any) -> Detector:
        head = TwoFCHead(64, channels=128)
        return FastRCNN(ResNet("resnet18", stages=[1]), CLASSES, head=head, **{**SMALL, **arguments})


class TestWithPyramid(DetectorTester):
    needs_proposals = True
    exhaustive = EXHAUSTIVE

    @classmethod
    def make(cls, **arguments: Any) -> Detector:
        backbone = FPN(ResNet("resnet18", stages=[2, 3]), channels=32)
        settings = {"pooling": "roi_align", **SMALL, **arguments}
        return FastRCNN(backbone, CLASSES, head=TwoFCHead(32, channels=64), **settings)


@pytest.fixture
def network() -> Detector:
    torch.manual_seed(0)
    network = TestWithOneMap.make(**EXHAUSTIVE).eval()
    torch.nn.init.normal_(network.box_head.classes.weight, std=0.1)  # sure enough of itself to tell regions apart
    return network


def test_losses_have_names() -> None:
    assert list(TestWithOneMap.make().loss(scene(proposals=True))) == ["box_class", "box_delta"]


def test_without_proposals_it_says_how_to_make_them(network) -> None:
    batch = scene()
    for call in (lambda: network.loss(batch), lambda: detect(network, batch), lambda: network.validate(batch)):
        with pytest.raises(DataError, match=r"Fast R-CNN needs proposals.*tools/propose.py .*selective_search"):
            call()


def test_defaults_are_the_papers() -> None:
    """Section 2.3: 64 regions an image, a quarter of them objects, at IoU 0.5; background from 0.1. NMS as released."""
    with torch.device("meta"):
        network = FastRCNN(ResNet("resnet18", stages=[3]), 20)
    assert (network.pooling, network.samples, network.positive_fraction) == ("roi_pool", 64, 0.25)
    assert (network.iou, network.background_iou, network.nms) == (0.5, 0.1, 0.3)


def test_loss_is_that_of_the_paper(network) -> None:
    """Equations 1 to 3, written out region by region over every proposal and the ground truth."""
    batch = scene(proposals=True)
    features = network.backbone(batch.images, batch.sizes)
    entropy, smooth, count = 0.0, 0.0, 0
    for image in range(2):
        truth = batch.targets.boxes[image, batch.targets.valid[image]]
        classes = batch.targets.labels[image, batch.targets.valid[image]]
        own = batch.proposals.boxes[image, batch.proposals.valid[image]]
        for box in torch.cat([own, truth]):
            inner = (torch.minimum(box[2:], truth[:, 2:]) - torch.maximum(box[:2], truth[:, :2])).clamp(min=0).prod(1)
            areas = (truth[:, 2:] - truth[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
            overlap, best = (inner / (areas - inner)).max(dim=0)
            if overlap < 0.1:
                continue
            region = Instances(box.view(1, 1, 4), torch.ones(1, 1, dtype=torch.bool))
            logits, deltas = network.box_head(network.pool([f[[image]] for f in features], region))
            label = classes[best] if overlap >= 0.5 else torch.tensor(CLASSES)
            entropy = entropy - logits.log_softmax(dim=1)[0, label]
            count += 1
            if overlap < 0.5:
                continue
            size, wanted = box[2:] - box[:2], truth[best, 2:] - truth[best, :2]
            middle = (truth[best, :2] + truth[best, 2:] - box[:2] - box[2:]) / 2
            target = torch.cat([10 * middle / size, 5 * (wanted / size).log()])
            x = (deltas[0, label] - target).abs()
            smooth = smooth + torch.where(x < 1, 0.5 * x**2, x - 0.5).sum()
    losses = network.loss(batch)
    assert_close(losses["box_class"], entropy / count, rtol=1e-4, atol=1e-5)
    assert_close(losses["box_delta"], smooth / count, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_of_the_proposals_changes_nothing() -> None:
    """With RoIAlign: RoIPool rounds some of these regions to the same pixels, and equal scores have no order."""
    torch.manual_seed(0)
    network, batch = TestWithPyramid.make(**EXHAUSTIVE).eval().double(), scene(proposals=True)
    torch.nn.init.normal_(network.box_head.classes.weight, std=0.5)
    padded = batch._replace(proposals=with_padding(batch.proposals))
    expected, detections = detect(network, batch), detect(network, padded)
    assert expected.valid.sum() > 10
    assert torch.equal(detections.valid, expected.valid)
    assert_close(detections.boxes, expected.boxes, rtol=0, atol=1e-3)
    for name, loss in network.loss(batch).items():
        assert_close(network.loss(padded)[name], loss)


def test_an_image_without_proposals_trains_and_detects_nothing(network) -> None:
    batch = scene(proposals=True)
    nothing = batch._replace(proposals=batch.proposals._replace(valid=torch.zeros_like(batch.proposals.valid)))
    assert backward(network, nothing)["box_class"] > 0  # of the ground truth
    assert not detect(network, nothing).valid.any()
    none = batch._replace(proposals=Instances(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool)))
    assert_close(network.loss(none), network.loss(nothing))


@pytest.mark.parametrize(
    ("setting", "small", "large"),
    [("samples", 2, 10**6), ("iou", 0.3, 0.8), ("background_iou", 0.0, 0.3), ("positive_fraction", 0.1, 1.0)],
)
def test_settings_reach_the_loss(setting, small, large) -> None:
    losses = []
    for value in (small, large):
        torch.manual_seed(0)
        network = TestWithOneMap.make(**{**EXHAUSTIVE, "samples": 20, setting: value}).eval()
        losses.append(sum(network.loss(scene(proposals=True)).values()))
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("setting", "value"), [("detections", 3), ("candidates", 3), ("score_threshold", 0.6), ("nms", 0.05)]
)
@torch.no_grad()
def test_settings_reach_the_detections(network, setting, value) -> None:
    batch = scene(proposals=True)
    before = detect(network, batch).valid.sum(dim=1)
    state = network.state_dict()
    network = TestWithOneMap.make(**EXHAUSTIVE, **{setting: value}).eval()
    network.load_state_dict(state)
    assert (detect(network, batch).valid.sum(dim=1) < before).all()


@pytest.mark.parametrize("pooling", ["roi_pool", "roi_align"])
def test_both_poolings_train_every_parameter_of_a_pyramid(pooling) -> None:
    network = TestWithPyramid.make(pooling=pooling)
    backward(network, scene(proposals=True))
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients(network).values())


@pytest.mark.parametrize(
    ("stages", "arguments", "message"),
    [
        ([2, 3], {}, r"\[64, 128\] channels.*FPN"),
        ([3], {"head": TwoFCHead(64, channels=8)}, "takes 64 channels.* gives 128"),
        ([3], {"samples": 0}, "samples is 0"),
        ([3], {"background_iou": 0.6}, "background_iou is 0.6.*iou, 0.5"),
    ],
)
def test_parts_that_do_not_fit(stages, arguments, message) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        FastRCNN(ResNet("resnet18", stages=stages), CLASSES, **arguments)


def test_the_extra_map_of_a_pyramid_is_not_pooled() -> None:
    with torch.device("meta"):
        assert FastRCNN(FPN(ResNet("resnet18")), CLASSES).strides == [4, 8, 16, 32]


def test_no_room_for_a_proposal_is_no_detection(network) -> None:
    batch = scene()
    nothing = Instances(torch.zeros(len(batch.images), 0, 4), torch.zeros(len(batch.images), 0, dtype=torch.bool))
    losses, found = network.validate(batch._replace(proposals=nothing))
    assert not found.valid.any()
    assert all(loss.isfinite() for loss in losses.values())
