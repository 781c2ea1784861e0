from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from detseg.models import Detector, FasterRCNN
from detseg.modules import FPN, Res5Head, RoIPool, TwoMLPHead
from detseg.modules.backbones import ResNet
from detseg.structures import Instances
from tests.models.detectors import SmallBackbone, faster_rcnn
from tests.models.tester import CLASSES, DetectorTester, Operations, backward, gradients, scene, with_padding

EXHAUSTIVE = {
    "rpn_batch_size_per_image": 10**6,
    "rpn_positive_fraction": 1.0,
    "batch_size_per_image": 10**6,
    "positive_fraction": 1.0,
}


class TestWithPyramid(DetectorTester):
    exhaustive = EXHAUSTIVE

    @classmethod
    def make(cls, **arguments: Any) -> Detector:
        backbone = FPN(SmallBackbone(), channels=32)
        return faster_rcnn(backbone, CLASSES, TwoMLPHead(64), **arguments)


class TestWithOneMap(DetectorTester):
    exhaustive = EXHAUSTIVE

    @classmethod
    def make(cls, **arguments: Any) -> Detector:
        settings = {"rpn_sizes": [[16, 32, 64]], **arguments}
        return faster_rcnn(SmallBackbone([2]), CLASSES, TwoMLPHead(128), **settings)


@pytest.fixture
def model() -> Detector:
    torch.manual_seed(0)
    model = TestWithPyramid.make(**EXHAUSTIVE).eval()
    torch.nn.init.normal_(
        model.roi_heads.box_predictor.cls_score.weight, std=0.5
    )  # sure enough of itself to tell regions apart
    return model


def test_losses_have_names() -> None:
    losses = TestWithPyramid.make().loss(scene())
    assert list(losses) == ["loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"]


@torch.no_grad()
def test_given_proposals_are_used(model) -> None:
    batch = scene()
    one = Instances(torch.tensor([[[8.0, 10, 50, 42]], [[20, 36, 56, 76]]]), torch.tensor([[True], [False]]))
    boxes, valid, _, _, _ = model(batch.images, batch.image_sizes, one)
    assert valid.any(dim=1).tolist() == [True, False]
    assert_close(boxes[0, 0], one.boxes[0, 0], rtol=0, atol=2)  # an untrained head hardly moves it


@torch.no_grad()
def test_padding_of_the_proposals_changes_nothing(model) -> None:
    model, batch = model.double(), scene()
    features = model.backbone(batch.images, batch.image_sizes)
    proposals = model.rpn.propose(model.rpn(features, (96, 96)), batch.image_sizes, training=False)
    expected = model(batch.images, batch.image_sizes, proposals)
    detections = model(batch.images, batch.image_sizes, with_padding(proposals))
    assert expected.valid.sum() > 10
    assert torch.equal(detections.valid, expected.valid)
    assert_close(detections.boxes, expected.boxes, rtol=0, atol=1e-3)
    assert_close(detections.scores, expected.scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "small", "large"),
    [
        ("rpn_nms_threshold", 0.1, 0.9),
        ("rpn_batch_size_per_image", 4, 10**6),
        ("batch_size_per_image", 2, 10**6),
        ("rpn_iou", (0.1, 0.2), (0.3, 0.9)),
    ],
)
def test_settings_reach_the_loss(setting, small, large) -> None:
    one, other = ({**EXHAUSTIVE, setting: value} for value in (small, large))
    losses = []
    for settings in (one, other):
        torch.manual_seed(0)
        losses.append(sum(TestWithPyramid.make(**settings).eval().loss(scene()).values()))
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("setting", "value"), [("detections_per_image", 3), ("topk_candidates", 3), ("score_threshold", 0.9)]
)
@torch.no_grad()
def test_settings_reach_the_detections(model, setting, value) -> None:
    batch = scene()
    before = model(batch.images, batch.image_sizes).valid.sum(dim=1)
    state = model.state_dict()
    model = TestWithPyramid.make(**EXHAUSTIVE, **{setting: value}).eval()
    model.load_state_dict(state)
    detections = model(batch.images, batch.image_sizes)
    assert (detections.valid.sum(dim=1) < before).all()
    if setting == "score_threshold":
        assert (detections.scores[detections.valid] > 0.9).all()
    else:
        assert detections.valid.sum(dim=1).max() <= 3


@torch.no_grad()
def test_inference_does_not_wait_for_the_device(model, monkeypatch) -> None:
    monkeypatch.setattr(
        "detseg.modules.roi_heads.drop_padding", lambda proposals: proposals
    )  # which asks on a CPU alone
    batch = scene()
    with Operations() as operations:
        detections = model(batch.images, batch.image_sizes)
    assert detections.valid.any()
    assert operations.waiting == []


def test_roi_pool_trains_and_detects() -> None:
    model, batch = TestWithPyramid.make(pooler=RoIPool()), scene()
    backward(model, batch)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients(model).values())
    assert model(batch.images, batch.image_sizes).boxes.isfinite().all()


def test_last_stage_of_a_resnet_as_the_head_of_a_single_map() -> None:
    """ResNet, appendix A."""
    settings = {"batch_size_per_image": 4, "rpn_post_nms_top_n": (8, 4), "rpn_sizes": [[32, 64]]}
    model = faster_rcnn(ResNet("resnet50", stages=[4]), CLASSES, Res5Head(), **settings)
    batch = scene()
    backward(model, batch)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients(model).values())
    assert model.eval()(batch.images, batch.image_sizes).boxes.shape == (2, 100, 4)


@pytest.mark.parametrize(
    ("stages", "box_head", "sizes", "message"),
    [
        ([2, 3], TwoMLPHead, None, r"\[64, 128\] channels.*FPN"),
        ([3], lambda: TwoMLPHead(8).build(64), None, "TwoMLPHead has in_channels 64, .* needs in_channels 128"),
        ([3], Res5Head, None, "Res5Head has in_channels 1024, .* needs in_channels 128"),
        ([3], TwoMLPHead, [[32], [64]], "2 lists.* 1 maps"),
    ],
)
def test_parts_that_do_not_fit(stages, box_head, sizes, message) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        faster_rcnn(ResNet("resnet18", stages=stages), CLASSES, box_head(), rpn_sizes=sizes)


def test_the_extra_map_of_a_pyramid_is_for_anchors_alone() -> None:
    """FPN, section 4.2: there is no P6 in the features of regions, whatever its stride."""
    with torch.device("meta"):
        assert TestWithPyramid.make().roi_heads.strides == [4, 8]
        assert FasterRCNN(FPN(ResNet("resnet18")), CLASSES).roi_heads.strides == [4, 8, 16, 32]
        assert TestWithOneMap.make().roi_heads.strides == [4]


@pytest.mark.parametrize(
    "setting", [{"batch_size_per_image": 0}, {"detections_per_image": 0}, {"rpn_post_nms_top_n": (100, 0)}]
)
def test_nothing_cannot_be_asked_for(setting) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=f"{next(iter(setting)).removeprefix('rpn_')} is 0"):
        TestWithPyramid.make(**setting)


def test_maps_that_do_not_fit() -> None:
    with torch.device("meta"):
        gap, pyramid = FPN(ResNet("resnet18", stages=[2, 4])), FPN(ResNet("resnet18", stages=[2, 3]))
        with pytest.raises(ValueError, match=r"strides \[4, 16\]"):
            FasterRCNN(gap, CLASSES)
        with pytest.raises(ValueError, match=r"\[32, 64\].* same number"):
            faster_rcnn(pyramid, CLASSES, TwoMLPHead(), rpn_sizes=[[32], [32, 64], [64]])
