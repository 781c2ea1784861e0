from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torchvision
from torch.testing import assert_close
from torchvision.ops import box_iou

from detseg.errors import DataError
from detseg.models import RCNN, Detector
from detseg.modules import BalancedSampler, Postprocessor
from detseg.modules.backbones import VGG, AlexNet, MobileNetV1, MobileNetV2, MobileNetV3, ResNet, SqueezeNet
from detseg.ops.boxes import encode
from detseg.ops.linear import ridge, svm
from detseg.ops.warping import warp
from detseg.structures import Batch, Instances
from tests.models.detectors import SmallBackbone
from tests.models.tester import CLASSES, DetectorTester, detect, overfit, scene

SMALL = {"crop_size": 40, "context": 4, "sampler": BalancedSampler(24, 0.25)}
EXHAUSTIVE = {"sampler": BalancedSampler(10**6, 1.0)}


@torch.no_grad()
def fit(model: RCNN, batch: Batch) -> None:
    """Machines and regressors of the two images, by the rules of the paper but for the strength."""
    every = Instances(
        torch.cat([batch.targets.boxes, batch.proposals.boxes], dim=1),
        torch.cat([batch.targets.valid, batch.proposals.valid], dim=1),
    )
    features = model.eval().features(batch.images, batch.image_sizes, every)
    hidden, grid, boxes, overlaps, labels, matched = [], [], [], [], [], []
    for row in range(len(batch.images)):
        valid, truth = every.valid[row], batch.targets.boxes[row, batch.targets.valid[row]]
        own = batch.targets.labels[row, batch.targets.valid[row]]
        iou = box_iou(every.boxes[row, valid], truth)
        of_class = torch.zeros(len(iou), CLASSES)
        of_class[:, own] = iou  # each class is there once
        best, nearest = iou.max(dim=1)
        hidden.append(features.hidden[row, valid])
        grid.append(features.grid[row, valid])
        boxes.append(every.boxes[row, valid])
        overlaps.append(of_class)
        labels.append(torch.where(best >= 0.6, own[nearest], -1))
        matched.append(truth[nearest])
    hidden, grid, boxes, overlaps, labels, matched = map(torch.cat, (hidden, grid, boxes, overlaps, labels, matched))
    for label in range(CLASSES):
        positive, negative = overlaps[:, label] == 1, overlaps[:, label] < 0.3
        weight, bias = svm(hidden[positive | negative], positive[positive | negative], 1.0, 2.0, 10.0)
        model.svms.weight[label], model.svms.bias[label] = weight, bias
        near = labels == label
        weight, bias = ridge([(grid[near], encode(matched[near], boxes[near], model.delta_weights))], 1.0)
        model.bbox_pred.weight.view(CLASSES, 4, -1)[label], model.bbox_pred.bias.view(CLASSES, 4)[label] = (
            weight,
            bias,
        )


class TestWithMachines(DetectorTester):
    needs_proposals = True
    exhaustive = EXHAUSTIVE

    @classmethod
    def make(cls, **arguments: Any) -> Detector:
        return RCNN(SmallBackbone([3]), CLASSES, **{**SMALL, **arguments})

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls) -> Detector:
        torch.manual_seed(0)
        model = cls.make().train()
        overfit(model, scene(proposals=True))
        fit(model, scene(proposals=True))
        return model


@pytest.fixture(scope="module")
def model() -> RCNN:
    """At random, but sure enough of itself to tell regions apart."""
    torch.manual_seed(0)
    model = RCNN(SqueezeNet(), CLASSES, **{**SMALL, **EXHAUSTIVE}).eval()
    with torch.no_grad():
        for layer, std in ((model.cls_score, 1.0), (model.svms, 1.0), (model.bbox_pred, 0.01)):
            torch.nn.init.normal_(layer.weight, std=std)
    return model


def variant(model: RCNN, **attributes: Any) -> RCNN:
    model = copy.copy(model)
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def test_defaults_are_the_papers() -> None:
    """Sections 2.1 to 2.3, appendix A; two images make 32 objects and 96 backgrounds."""
    with torch.device("meta"):
        model = RCNN(AlexNet(), 20)
    assert (model.crop_size, model.context) == (227, 16)
    assert (model.matcher.fg_iou_threshold, model.postprocessor.nms_threshold) == (0.5, 0.3)
    assert (2 * model.sampler.batch_size_per_image, 2 * model.sampler.max_positives) == (128, 32)
    assert (model.scores, model.box_regression) == ("svm", True)


@pytest.mark.parametrize(
    ("backbone", "hidden", "grid"),
    [
        (AlexNet, 4096, 256 * 6 * 6),
        (VGG, 4096, 512 * 7 * 7),
        (MobileNetV2, 1280, 1280 * 3 * 3),
        (MobileNetV3, 1280, 960 * 3 * 3),
        (SqueezeNet, 512, 512 * 3 * 3),
        (lambda: ResNet("resnet18"), 512, 512 * 3 * 3),
    ],
)
def test_features_of_every_kind_of_network(backbone, hidden, grid) -> None:
    with torch.device("meta"):
        model = RCNN(backbone(), 20)
    assert (model.svms.in_features, model.cls_score.in_features, model.bbox_pred.in_features) == (
        hidden,
        hidden,
        grid,
    )


@torch.no_grad()
def test_features_of_alexnet_are_fc7_and_pool5() -> None:
    torch.manual_seed(0)
    model, batch = RCNN(AlexNet(), CLASSES).eval(), scene(proposals=True)
    published = torchvision.models.alexnet().eval()
    published.features.load_state_dict(model.backbone.features.state_dict())
    for name, layer in (("1", model.hidden[3]), ("4", model.hidden[6])):
        published.classifier.get_submodule(name).load_state_dict(layer.state_dict())
    regions = Instances(batch.proposals.boxes[:1, :2], batch.proposals.valid[:1, :2])
    crops = warp(batch.images[:1], batch.image_sizes[:1], regions.boxes[0], torch.zeros(2, dtype=torch.int64), 227, 16,
                 model.backbone.mean)  # fmt: skip
    pool5 = published.features((crops - model.backbone.mean) / model.backbone.std)
    found = model.features(batch.images[:1], batch.image_sizes[:1], regions)
    assert_close(found.grid[0], pool5.flatten(1), rtol=1e-4, atol=1e-5)
    assert_close(found.hidden[0], published.classifier[:6](pool5.flatten(1)), rtol=1e-4, atol=1e-5)


def test_all_of_a_published_network_that_remains_has_its_weights(tmp_path, caplog) -> None:
    torch.manual_seed(0)
    published = torchvision.models.alexnet().state_dict()
    torch.save(published, tmp_path / "alexnet.pth")
    with caplog.at_level("INFO"):
        model = RCNN(AlexNet(weights=str(tmp_path / "alexnet.pth")), CLASSES)
    assert "at random" not in caplog.text
    for place, name in ((3, "classifier.1"), (6, "classifier.4")):
        assert torch.equal(model.hidden[place].weight, published[f"{name}.weight"])


def test_loss_is_the_entropy_of_every_region(model) -> None:
    batch = scene(proposals=True)
    entropy = []
    for image in range(2):
        truth = batch.targets.boxes[image, batch.targets.valid[image]]
        classes = batch.targets.labels[image, batch.targets.valid[image]]
        for box in torch.cat([batch.proposals.boxes[image, batch.proposals.valid[image]], truth]):
            overlap, best = box_iou(box[None], truth)[0].max(dim=0)
            region = Instances(box.view(1, 1, 4), torch.ones(1, 1, dtype=torch.bool))
            features = model.features(batch.images[[image]], batch.image_sizes[[image]], region)
            logits = model.cls_score(features.hidden[0, 0])
            entropy.append(-logits.log_softmax(dim=0)[classes[best] if overlap >= 0.5 else CLASSES])
    assert_close(model.loss(batch), {"loss_classifier": torch.stack(entropy).mean()}, rtol=1e-4, atol=1e-5)


def test_objects_are_drawn_from_the_whole_batch() -> None:
    """16 of 64 regions, though the second image alone has few objects."""
    torch.manual_seed(0)
    model, batch = (
        RCNN(MobileNetV1(alpha=0.25), CLASSES, **{**SMALL, "sampler": BalancedSampler(32, 0.25)}),
        scene(proposals=True),
    )
    few = batch.proposals.valid.clone()
    few[1, :16] = False
    few[1, :3] = True
    _, labels, valid = model.classify(batch._replace(proposals=batch.proposals._replace(valid=few)))
    assert valid.all()
    assert (labels < CLASSES).sum() == 16
    assert len(labels) == 64


@torch.no_grad()
def test_scores_and_boxes_follow_the_settings(model) -> None:
    batch = scene(proposals=True)
    everything = Postprocessor(1.0, score_threshold=0.0, topk_candidates=10**6, detections_per_image=10**6)
    keep = {"postprocessor": everything}
    regions = batch.proposals
    features = model.features(batch.images, batch.image_sizes, regions)
    margins = model.svms(features.hidden)
    expected = {"svm": 1 / (1 + (-margins).exp()), "softmax": model.cls_score(features.hidden).softmax(-1)[..., :-1]}
    for scores, own in expected.items():
        found = detect(variant(model, scores=scores, box_regression=False, **keep), batch)
        for row in range(2):
            every = own[row, regions.valid[row]]
            valid = found.valid[row]
            assert_close(found.scores[row, valid], every.flatten().sort(descending=True).values)
            region = every.flatten().argmax() // CLASSES
            assert_close(found.boxes[row, 0], regions.boxes[row, regions.valid[row]][region])
    refined = detect(variant(model, **keep), batch)
    assert not torch.equal(refined.boxes, found.boxes)


@torch.no_grad()
def test_the_size_of_a_portion_does_not_matter(model) -> None:
    batch = scene(proposals=True)
    expected, found = (
        variant(model, crops_per_batch=size).features(batch.images, batch.image_sizes, batch.proposals)
        for size in (10**6, 14)
    )
    assert expected.hidden.std(dim=1).mean() > 0.05
    assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_it_finds_nothing_before_it_is_complete() -> None:
    torch.manual_seed(0)
    batch = scene(proposals=True)
    model = RCNN(MobileNetV1(alpha=0.25), CLASSES, **SMALL).eval()
    assert not model.complete
    assert not detect(model, batch).valid.any()
    fit(model, batch)
    assert model.complete
    assert RCNN(MobileNetV1(alpha=0.25), CLASSES, **SMALL, scores="softmax", box_regression=False).complete


def test_without_proposals_it_says_how_to_make_them(model) -> None:
    batch = scene()
    for call in (lambda: model.loss(batch), lambda: detect(model, batch), lambda: model.validate(batch)):
        with pytest.raises(DataError, match=r"R-CNN needs proposals.*`detseg propose`.*`proposals`"):
            call()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crops_per_batch": 0}, "crops_per_batch is 0"),
        ({"context": 30, "crop_size": 60}, "context is 30"),
        ({"crop_size": 20, "context": 0}, "crop_size 20: too small for AlexNet"),
    ],
)
def test_values_that_make_no_sense(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        RCNN(AlexNet(), CLASSES, **arguments)
