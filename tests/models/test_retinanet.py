from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.models import WeightsEnum, get_model

from detseg.errors import CheckpointError
from detseg.model_zoo import load_torchvision
from detseg.models import Detector, RetinaNet
from detseg.models.retinanet import RetinaFPN
from detseg.modules import AnchorGenerator, Postprocessor, postprocessor
from detseg.modules.retina_head import RetinaHead
from detseg.structures import Batch, Instances
from detseg.weights.state_dict import COUNT
from detseg.weights.torchvision import COCO, UNUSED_BIAS, from_torchvision, load_weights, to_torchvision
from tests.models.detectors import SmallBackbone
from tests.models.tester import CLASSES, DetectorTester, scene

pytestmark = pytest.mark.usefixtures("quick_initialization")

HEIGHT, WIDTH = 96, 128
SIZES = [(96, 80), (70, 128)]
LABELS = list(COCO.values())
UNUSED = [label for label in range(91) if label not in LABELS]


class TestRetinaNet(DetectorTester):
    exhaustive: dict[str, Any] = {}

    @classmethod
    def make(cls, **arguments: Any) -> Detector:
        backbone = RetinaFPN(SmallBackbone(), channels=32)
        settings: dict[str, Any] = {"head": RetinaHead(num_convs=1), "postprocessor": Postprocessor(0.3), **arguments}
        return RetinaNet(backbone, CLASSES, AnchorGenerator([[16], [32], [48], [64]]), **settings)


def test_losses_have_names() -> None:
    assert list(TestRetinaNet.make().loss(scene())) == ["loss_classifier", "loss_box_reg"]


class Pair:
    """torchvision's network and ours, both with the same random weights as if they were the published ones."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(3)
        random: Any = get_model(name, weights=None, weights_backbone=None, num_classes=91).train()
        for module in random.modules():
            if isinstance(module, nn.BatchNorm2d):  # statistics of these images, so that activations stay O(1)
                module.momentum = None
        with torch.no_grad():
            features = random.backbone(torch.rand(2, 3, HEIGHT, WIDTH) * 4 - 2)
            for layer, feature in zip(random.backbone.fpn.layer_blocks, features.values(), strict=False):
                layer[0].weight /= feature.std()
            head = random.head.classification_head.cls_logits
            nn.init.normal_(head.weight, std=0.1)
            nn.init.constant_(head.bias, -2.0)
            # Labels that ours does not have, the background's among them: never detected, and without a loss.
            head.weight.view(9, 91, -1)[:, UNUSED] = 0
            head.bias.view(9, 91)[:, UNUSED] = UNUSED_BIAS
            nn.init.normal_(random.head.regression_head.bbox_reg.weight, std=0.02)
        frozen = not name.endswith("_v2")  # whose batch norm has no count of batches
        state = {key: value for key, value in random.state_dict().items() if not (frozen and key.endswith(COUNT))}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: dict(state))
            self.theirs: Any = get_model(name, weights="COCO_V1").eval().double()
            self.ours: Any = load_torchvision(name).eval().double()
        self.theirs.transform.resize = lambda image, target: (image, target)
        body = self.ours.backbone.backbone
        body.mean = 255 * torch.tensor(self.theirs.transform.image_mean, dtype=torch.float64).view(3, 1, 1)
        body.std = 255 * torch.tensor(self.theirs.transform.image_std, dtype=torch.float64).view(3, 1, 1)


@pytest.fixture(scope="module", params=["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


@pytest.fixture(scope="module")
def batch() -> Batch:
    torch.manual_seed(4)
    images = torch.zeros(len(SIZES), 3, HEIGHT, WIDTH, dtype=torch.uint8)
    boxes = torch.zeros(len(SIZES), 4, 4, dtype=torch.float64)
    labels, valid = torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 4, dtype=torch.bool)
    for row, (height, width) in enumerate(SIZES):
        images[row, :, :height, :width] = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        corner = torch.rand(3, 2) * torch.tensor([width - 60, height - 60])
        boxes[row, :3] = torch.cat([corner, corner + 20 + 40 * torch.rand(3, 2)], dim=1)
        labels[row, :3] = torch.randint(0, len(COCO), (3,))
        valid[row, : 3 - row] = True
    sizes = torch.tensor(SIZES)
    return Batch(images, sizes, Instances(boxes, valid, labels), torch.arange(2), sizes)


def as_list(batch: Batch) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    images = [image[:, :h, :w].double() / 255 for image, (h, w) in zip(batch.images, SIZES, strict=True)]
    triples = zip(batch.targets.boxes, batch.targets.valid, batch.targets.labels, strict=True)
    of_label = torch.tensor(LABELS)
    return images, [{"boxes": boxes[valid], "labels": of_label[labels[valid]]} for boxes, valid, labels in triples]


def test_settings_are_those_of_torchvision(pair: Pair) -> None:
    theirs, ours = pair.theirs, pair.ours
    matcher, own = theirs.proposal_matcher, ours.matcher
    assert (own.fg_iou_threshold, own.bg_iou_threshold) == (matcher.high_threshold, matcher.low_threshold)
    assert own.allow_low_quality_matches == matcher.allow_low_quality_matches
    own = ours.postprocessor
    assert (own.nms_threshold, own.score_threshold) == (theirs.nms_thresh, theirs.score_thresh)
    assert (own.topk_candidates, own.detections_per_image) == (theirs.topk_candidates, theirs.detections_per_img)
    for level, anchors in zip(ours.anchor_generator.base_anchors, theirs.anchor_generator.cell_anchors, strict=True):
        assert torch.equal(level, anchors.double())


@torch.no_grad()
def test_detections(pair: Pair, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save for boxes outside of the image, which torchvision clips to its edge, without an area, and keeps."""
    monkeypatch.setattr(postprocessor, "MIN_SIDE", 1e-12)
    monkeypatch.setattr(pair.ours.postprocessor, "detections_per_image", 3000)
    monkeypatch.setattr(pair.theirs, "detections_per_img", 3000)
    detections = pair.ours(batch.images, batch.image_sizes)
    expected = pair.theirs(as_list(batch)[0])
    for row, image in enumerate(expected):
        valid = detections.valid[row]
        inside = ((image["boxes"][:, 2:] - image["boxes"][:, :2]) >= 1e-12).all(dim=1)
        assert inside.sum() > 50
        assert_close(detections.scores[row][valid], image["scores"][inside])
        assert_close(detections.boxes[row][valid], image["boxes"][inside])
        assert torch.equal(torch.tensor(LABELS)[detections.labels[row][valid]], image["labels"][inside])


def test_losses_and_gradients(pair: Pair, batch: Batch) -> None:
    theirs, ours = pair.theirs, pair.ours
    own = ours.loss(batch)
    theirs.train()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    expected = theirs(*as_list(batch))
    theirs.eval()
    assert_close(own["loss_classifier"], expected["classification"], rtol=1e-6, atol=0, check_dtype=False)
    assert_close(own["loss_box_reg"], expected["bbox_regression"], rtol=1e-6, atol=0, check_dtype=False)
    sum(own.values()).backward()
    sum(expected.values()).backward()
    trained = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.requires_grad}
    gradients = from_torchvision(trained, LABELS)
    assert gradients.keys() == {name for name, parameter in ours.named_parameters() if parameter.requires_grad}
    for name, other in gradients.items():
        parameter = ours.get_parameter(name)
        assert (parameter.grad - other).norm() < 1e-5 * other.norm(), name


def test_weights_both_ways(pair: Pair, tmp_path: Any) -> None:
    state = pair.theirs.state_dict()
    back = to_torchvision(pair.ours.state_dict(), LABELS)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())
    again = from_torchvision(back, LABELS)
    assert all(torch.equal(again[name], value) for name, value in pair.ours.state_dict().items())
    torch.save(state, tmp_path / "theirs.pth")
    nn.init.zeros_(pair.ours.head.classification_head["cls_logits"].weight)
    load_weights(pair.ours, str(tmp_path / "theirs.pth"))
    name = "head.classification_head.cls_logits.weight"
    assert torch.equal(pair.ours.state_dict()[name], again[name])


def test_names_of_the_first_published_weights() -> None:
    """As they are in the file: the layers of a tower are counted with the ReLUs between them."""
    old = {f"head.regression_head.conv.{layer}.bias": torch.ones(3) for layer in (0, 2, 6)}
    assert list(from_torchvision(old)) == [f"head.regression_head.conv.{layer}.0.bias" for layer in (0, 1, 3)]


def test_weights_of_another_network(tmp_path: Any) -> None:
    torch.save({"rpn.head.cls_logits.weight": torch.zeros(3, 8, 1, 1)}, tmp_path / "rpn.pth")
    with pytest.raises(CheckpointError, match=r"rpn.pth: not weights of this RetinaNet: .* missing"):
        load_weights(TestRetinaNet.make(), str(tmp_path / "rpn.pth"))


@torch.no_grad()
def test_settings_reach_the_detections() -> None:
    torch.manual_seed(0)
    model = TestRetinaNet.make(postprocessor=Postprocessor(0.5, score_threshold=0.0)).eval()
    fewer = TestRetinaNet.make(
        postprocessor=Postprocessor(0.5, score_threshold=0.0, topk_candidates=3, detections_per_image=5)
    ).eval()
    fewer.load_state_dict(model.state_dict())
    batch = scene()
    assert model(batch.images, batch.image_sizes).valid.sum(dim=1).min() > 12
    assert fewer(batch.images, batch.image_sizes).valid.sum(dim=1).tolist() == [5, 5]
