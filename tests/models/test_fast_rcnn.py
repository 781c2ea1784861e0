from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from detseg.errors import DataError
from detseg.models import Detector, FastRCNN
from detseg.models.fast_rcnn import FastRCNNHeads
from detseg.modules import FPN, BalancedSampler, Matcher, RoIAlign, RoIPool, TwoMLPHead
from detseg.modules.backbones import ResNet
from detseg.structures import Instances
from tests.models.detectors import SmallBackbone, fast_rcnn
from tests.models.tester import CLASSES, DetectorTester, backward, detect, gradients, scene, with_padding

# A network that is to find two objects and nothing else must have seen what touches neither as background.
SMALL = {"batch_size_per_image": 32, "pooler": RoIPool(), "nms_threshold": 0.3}
EXHAUSTIVE = {"batch_size_per_image": 10**6, "positive_fraction": 1.0, "iou": (0.1, 0.5)}


class TestWithOneMap(DetectorTester):
    needs_proposals = True
    exhaustive = EXHAUSTIVE

    @classmethod
    def make(cls, **arguments: Any) -> Detector:
        return fast_rcnn(SmallBackbone([2]), CLASSES, TwoMLPHead(128), **{**SMALL, **arguments})


class TestWithPyramid(DetectorTester):
    needs_proposals = True
    exhaustive = EXHAUSTIVE

    @classmethod
    def make(cls, **arguments: Any) -> Detector:
        backbone = FPN(SmallBackbone(), channels=32)
        return fast_rcnn(backbone, CLASSES, TwoMLPHead(64), **{**SMALL, "pooler": RoIAlign(), **arguments})


@pytest.fixture
def model() -> Detector:
    torch.manual_seed(0)
    model = TestWithOneMap.make(**EXHAUSTIVE).eval()
    torch.nn.init.normal_(
        model.roi_heads.box_predictor.cls_score.weight, std=0.1
    )  # sure enough of itself to tell regions apart
    return model


def test_losses_have_names() -> None:
    assert list(TestWithOneMap.make().loss(scene(proposals=True))) == ["loss_classifier", "loss_box_reg"]


def test_without_proposals_it_says_how_to_make_them(model) -> None:
    batch = scene()
    for call in (lambda: model.loss(batch), lambda: detect(model, batch), lambda: model.validate(batch)):
        with pytest.raises(DataError, match=r"Fast R-CNN needs proposals.*`detseg propose`.*`proposals`"):
            call()


def test_defaults_are_the_papers() -> None:
    """Section 2.3: 64 regions an image, a quarter of them objects, at IoU 0.5; background from 0.1. NMS as released."""
    with torch.device("meta"):
        model = FastRCNN(ResNet("resnet18", stages=[3]), 20)
    heads = model.roi_heads
    assert isinstance(heads.pooler, RoIPool)
    assert (heads.sampler.batch_size_per_image, heads.sampler.positive_fraction) == (64, 0.25)
    matcher = heads.matcher
    assert (matcher.fg_iou_threshold, matcher.bg_iou_threshold, matcher.min_bg_iou) == (0.5, 0.5, 0.1)
    assert (heads.box_predictor.smooth_l1_beta, heads.postprocessor.nms_threshold) == (1.0, 0.3)


def test_loss_is_that_of_the_paper(model) -> None:
    """Equations 1 to 3, written out region by region over every proposal and the ground truth."""
    batch = scene(proposals=True)
    model.roi_heads.box_predictor.smooth_l1_beta = 1.0
    features, heads = model.backbone(batch.images, batch.image_sizes), model.roi_heads
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
            logits, deltas = heads.box_predictor(
                heads.box_head(heads.pooler([f[[image]] for f in features], region, heads.strides, 7))
            )
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
    losses = model.loss(batch)
    assert_close(losses["loss_classifier"], entropy / count, rtol=1e-4, atol=1e-5)
    assert_close(losses["loss_box_reg"], smooth / count, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_of_the_proposals_changes_nothing() -> None:
    """With RoIAlign: RoIPool rounds some of these regions to the same pixels, and equal scores have no order."""
    torch.manual_seed(0)
    model, batch = TestWithPyramid.make(**EXHAUSTIVE).eval().double(), scene(proposals=True)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    padded = batch._replace(proposals=with_padding(batch.proposals))
    expected, detections = detect(model, batch), detect(model, padded)
    assert expected.valid.sum() > 10
    assert torch.equal(detections.valid, expected.valid)
    assert_close(detections.boxes, expected.boxes, rtol=0, atol=1e-3)
    for name, loss in model.loss(batch).items():
        assert_close(model.loss(padded)[name], loss)


def test_an_image_without_proposals_trains_and_detects_nothing(model) -> None:
    batch = scene(proposals=True)
    nothing = batch._replace(proposals=batch.proposals._replace(valid=torch.zeros_like(batch.proposals.valid)))
    assert backward(model, nothing)["loss_classifier"] > 0  # of the ground truth
    assert not detect(model, nothing).valid.any()
    none = batch._replace(proposals=Instances(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool)))
    assert_close(model.loss(none), model.loss(nothing))


@pytest.mark.parametrize(
    ("setting", "small", "large"),
    [
        ("batch_size_per_image", 2, 10**6),
        ("iou", (0.1, 0.3), (0.1, 0.8)),
        ("iou", (0.0, 0.5), (0.3, 0.5)),
        ("positive_fraction", 0.1, 1.0),
    ],
)
def test_settings_reach_the_loss(setting, small, large) -> None:
    losses = []
    for value in (small, large):
        torch.manual_seed(0)
        model = TestWithOneMap.make(**{**EXHAUSTIVE, "batch_size_per_image": 20, setting: value}).eval()
        losses.append(sum(model.loss(scene(proposals=True)).values()))
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("detections_per_image", 3), ("topk_candidates", 3), ("score_threshold", 0.6), ("nms_threshold", 0.05)],
)
@torch.no_grad()
def test_settings_reach_the_detections(model, setting, value) -> None:
    batch = scene(proposals=True)
    before = detect(model, batch).valid.sum(dim=1)
    state = model.state_dict()
    model = TestWithOneMap.make(**EXHAUSTIVE, **{setting: value}).eval()
    model.load_state_dict(state)
    assert (detect(model, batch).valid.sum(dim=1) < before).all()


@pytest.mark.parametrize("pooler", [RoIPool(), RoIAlign()])
def test_both_poolings_train_every_parameter_of_a_pyramid(pooler) -> None:
    model = TestWithPyramid.make(pooler=pooler)
    backward(model, scene(proposals=True))
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients(model).values())


@pytest.mark.parametrize(
    ("stages", "heads", "message"),
    [
        ([2, 3], FastRCNNHeads, r"\[64, 128\] channels.*FPN"),
        ([3], lambda: FastRCNNHeads(box_head=TwoMLPHead(8).build(64)), "has in_channels 64, .* needs in_channels 128"),
        ([3], lambda: FastRCNNHeads(sampler=BalancedSampler(0, 0.25)), "batch_size_per_image is 0"),
        (
            [3],
            lambda: FastRCNNHeads(matcher=Matcher(0.5, 0.5, False, 0.6)),
            "min_bg_iou is 0.6.* between 0 and 0.5",
        ),
    ],
)
def test_parts_that_do_not_fit(stages, heads, message) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        FastRCNN(ResNet("resnet18", stages=stages), CLASSES, heads())


def test_the_extra_map_of_a_pyramid_is_not_pooled() -> None:
    with torch.device("meta"):
        assert FastRCNN(FPN(ResNet("resnet18")), CLASSES).roi_heads.strides == [4, 8, 16, 32]


def test_no_room_for_a_proposal_is_no_detection(model) -> None:
    batch = scene()
    nothing = Instances(torch.zeros(len(batch.images), 0, 4), torch.zeros(len(batch.images), 0, dtype=torch.bool))
    losses, found = model.validate(batch._replace(proposals=nothing))
    assert not found.valid.any()
    assert all(loss.isfinite() for loss in losses.values())
