"""Faster R-CNN against torchvision's, with the same random weights: every stage must give the same numbers.

In double precision: in single, the rounding of an untrained network is enough to turn over some suppressions.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection.image_list import ImageList

from detseg.errors import CheckpointError
from detseg.models import FasterRCNN
from detseg.modules import FPN
from detseg.modules.backbones import ResNet
from detseg.structures import Batch, Instances
from detseg.weights.torchvision import from_torchvision, to_torchvision

pytestmark = pytest.mark.usefixtures("quick_initialization")

CLASSES = 5
SIZES = [(96, 128), (64, 128), (96, 80)]


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    torch.manual_seed(3)
    model = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, trainable_backbone_layers=5
    )
    for module in model.modules():
        if isinstance(
            module, torch.nn.BatchNorm2d
        ):  # statistics of an untrained network, so that activations stay O(1)
            module.momentum = None
    head = model.roi_heads.box_predictor  # sure of itself, or nothing would pass the score threshold
    torch.nn.init.normal_(head.cls_score.weight, std=0.2)
    torch.nn.init.normal_(head.bbox_pred.weight, std=0.05)
    model.transform.resize = lambda image, target: (image, target)
    model.train()
    with torch.no_grad():
        features = model.backbone(torch.rand(4, 3, 96, 128) * 4 - 2)
        for layer, feature in zip(model.backbone.fpn.layer_blocks, features.values(), strict=False):
            layer[0].weight /= feature.std()
    return model.eval().double()


@pytest.fixture(scope="module")
def ours(theirs: torch.nn.Module) -> FasterRCNN:
    model = FasterRCNN(FPN(ResNet("resnet50", norm="batch")), CLASSES).double()
    model.load_state_dict(from_torchvision(theirs.state_dict()))
    body = model.backbone.backbone  # its constants were made in single precision
    body.mean = 255 * torch.tensor(theirs.transform.image_mean, dtype=torch.float64).view(3, 1, 1)
    body.std = 255 * torch.tensor(theirs.transform.image_std, dtype=torch.float64).view(3, 1, 1)
    return model.eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    torch.manual_seed(4)
    images = torch.zeros(len(SIZES), 3, 96, 128, dtype=torch.uint8)
    boxes = torch.zeros(len(SIZES), 4, 4, dtype=torch.float64)
    labels = torch.zeros(len(SIZES), 4, dtype=torch.int64)
    valid = torch.zeros(len(SIZES), 4, dtype=torch.bool)
    for row, (height, width) in enumerate(SIZES):
        images[row, :, :height, :width] = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        corner = torch.rand(3, 2) * torch.tensor([width - 60, height - 60])
        boxes[row, :3] = torch.cat([corner, corner + 20 + 40 * torch.rand(3, 2)], dim=1)
        labels[row, :3] = torch.randint(0, CLASSES, (3,))
        valid[row, : 3 - row] = True
    sizes = torch.tensor(SIZES)
    return Batch(images, sizes, Instances(boxes, valid, labels), torch.arange(len(SIZES)), sizes)


def as_list(batch: Batch) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    images = [image[:, :h, :w].double() / 255 for image, (h, w) in zip(batch.images, SIZES, strict=True)]
    boxes, valid, labels = batch.targets.boxes, batch.targets.valid, batch.targets.labels
    assert labels is not None
    targets = [{"boxes": b[v], "labels": c[v] + 1} for b, v, c in zip(boxes, valid, labels, strict=True)]
    return images, targets


@pytest.fixture(scope="module")
def their_features(theirs: torch.nn.Module, batch: Batch) -> tuple[ImageList, dict[str, Tensor]]:
    with torch.no_grad():
        images, _ = theirs.transform(as_list(batch)[0])
        return images, theirs.backbone(images.tensors)


@torch.no_grad()
def test_features_rpn_and_proposals(theirs, ours, batch, their_features) -> None:
    images, features = their_features
    own = ours.backbone(batch.images, batch.image_sizes)
    for one, other in zip(own, features.values(), strict=True):
        assert_close(one, other)

    predictions = ours.rpn(own, batch.images.shape[-2:])
    logits, deltas = theirs.rpn.head(list(features.values()))
    logits = torch.cat([level.permute(0, 2, 3, 1).reshape(len(SIZES), -1) for level in logits], dim=1)
    deltas = torch.cat([level.permute(0, 2, 3, 1).reshape(len(SIZES), -1, 4) for level in deltas], dim=1)
    assert_close(predictions.logits, logits)
    assert_close(predictions.deltas, deltas)
    anchors = theirs.rpn.anchor_generator(images, list(features.values()))
    assert torch.equal(predictions.anchors, anchors[0])

    proposals = ours.rpn.propose(predictions, batch.image_sizes, training=False)
    expected, _ = theirs.rpn(images, features)
    for boxes, valid, other in zip(proposals.boxes, proposals.valid, expected, strict=True):
        assert_close(boxes[valid], other)


@torch.no_grad()
def test_detections(theirs, ours, batch) -> None:
    detections = ours(batch.images, batch.image_sizes)
    expected = theirs(as_list(batch)[0])
    assert sum(len(image["boxes"]) for image in expected) > 50
    for row, image in enumerate(expected):
        valid = detections.valid[row]
        assert_close(detections.scores[row][valid], image["scores"])
        assert_close(detections.boxes[row][valid], image["boxes"])
        assert torch.equal(detections.labels[row][valid] + 1, image["labels"])


def test_losses_on_the_same_samples(theirs, ours, batch, monkeypatch) -> None:
    """Where every candidate is drawn, nothing is random: both sides see the same anchors and regions."""
    samplers = (ours.rpn.sampler, ours.roi_heads.sampler, theirs.rpn.fg_bg_sampler, theirs.roi_heads.fg_bg_sampler)
    for sampler in samplers:
        monkeypatch.setattr(sampler, "batch_size_per_image", 10**6)
        monkeypatch.setattr(sampler, "positive_fraction", 1.0)
    monkeypatch.setattr(ours.rpn, "pre_nms_top_n", (1000, 1000))
    monkeypatch.setattr(ours.rpn, "post_nms_top_n", (60, 60))
    monkeypatch.setattr(theirs.rpn, "_post_nms_top_n", {"training": 60, "testing": 60})
    monkeypatch.setattr(theirs.rpn, "_pre_nms_top_n", {"training": 1000, "testing": 1000})
    own = ours.loss(batch)
    images, targets = as_list(batch)
    theirs.train()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    try:
        expected = theirs(images, targets)
    finally:
        theirs.eval()
    for name in own:
        assert_close(own[name], expected[name], rtol=1e-6, atol=0, check_dtype=False)

    ours.zero_grad()
    theirs.zero_grad()
    torch.stack(list(own.values())).sum().backward()
    torch.stack(list(expected.values())).sum().backward()
    gradients = to_torchvision({name: parameter.grad for name, parameter in ours.named_parameters()})
    for name, parameter in theirs.named_parameters():
        assert (gradients[name] - parameter.grad).norm() < 1e-5 * parameter.grad.norm(), name


def test_round_trip(theirs, ours) -> None:
    state = theirs.state_dict()
    back = to_torchvision(from_torchvision(state))
    assert set(back) == set(state)
    for name, value in state.items():
        if name.startswith("roi_heads.box_predictor.bbox_pred."):  # the background's box is read by nobody
            back[name], value = back[name][4:], value[4:]
        assert torch.equal(back[name], value)
    own = ours.state_dict()
    again = from_torchvision(to_torchvision(own))
    assert all(torch.equal(again[name], own[name]) for name in own)


def test_names_of_published_checkpoints(theirs) -> None:
    """COCO_V1 was saved before torchvision put each layer into a block of its own."""
    state = theirs.state_dict()
    old = {
        name.replace("rpn.head.conv.0.0.", "rpn.head.conv.").replace("0.0.weight", "0.weight"): value
        for name, value in state.items()
    }
    for level in range(4):
        for block in ("inner_blocks", "layer_blocks"):
            for kind in ("weight", "bias"):
                current = f"backbone.fpn.{block}.{level}.0.{kind}"
                if current in old:
                    old[f"backbone.fpn.{block}.{level}.{kind}"] = old.pop(current)
    assert from_torchvision(old).keys() == from_torchvision(state).keys()


def test_foreign_weights_are_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match=r"transformer\.encoder\.weight"):
        from_torchvision({"transformer.encoder.weight": torch.zeros(1)})
