from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from detseg.errors import DataError
from detseg.models import Detector, FasterRCNN, MaskRCNN, faster_rcnn
from detseg.modules import FPN, Conv5Head, TwoFCHead, box_head
from detseg.modules.backbones import ResNet
from tests.models.tester import CLASSES, OBJECTS, DetectorTester, backward, detect, gradients, scene

SMALL = {"rpn_samples": 64, "samples": 64, "rpn_candidates": (200, 100), "proposals": (100, 50), "mask_channels": 32}
EXHAUSTIVE = {"rpn_samples": 10**6, "rpn_positive_fraction": 1.0, "samples": 10**6, "positive_fraction": 1.0}


class TestWithPyramid(DetectorTester):
    masks = True
    exhaustive = EXHAUSTIVE

    @classmethod
    def make(cls, **arguments: Any) -> Detector:
        backbone = FPN(ResNet("resnet18", stages=[2, 3]), channels=32)
        return MaskRCNN(backbone, CLASSES, head=TwoFCHead(32, channels=64), **{**SMALL, **arguments})

    @torch.no_grad()
    def test_masks_are_learnt(self, trained, batch) -> None:
        """Left halves of the objects: in the grid of the detected box, the left columns and no others."""
        found = detect(trained, batch)
        for row, objects in enumerate(OBJECTS):
            for mask in found.masks[row, : len(objects)] > 0.5:
                assert mask[:, 2:11].float().mean() > 0.9
                assert mask[:, 17:].float().mean() < 0.1


class TestWithOneMapAndRoIPool(DetectorTester):
    masks = True
    exhaustive = EXHAUSTIVE

    @classmethod
    def make(cls, **arguments: Any) -> Detector:
        settings = {"anchor_sizes": [[16, 32, 64]], "pooling": "roi_pool", **SMALL, **arguments}
        return MaskRCNN(ResNet("resnet18", stages=[2]), CLASSES, head=TwoFCHead(64, channels=128), **settings)


def test_losses_have_names() -> None:
    losses = TestWithPyramid.make().loss(scene(masks=True))
    assert list(losses) == ["rpn_objectness", "rpn_box", "box_class", "box_delta", "mask"]


def test_data_without_masks_is_an_error() -> None:
    with pytest.raises(DataError, match="learns from masks"):
        TestWithPyramid.make().loss(scene())


def small_conv5() -> MaskRCNN:
    return MaskRCNN(
        ResNet("resnet50", stages=[4]),
        CLASSES,
        Conv5Head(),
        samples=4,
        rpn_candidates=(50, 20),
        proposals=(20, 10),
        anchor_sizes=[[32]],
    )


def test_conv5_is_shared_by_both_heads() -> None:
    """Figure 4, left: the mask head begins behind the conv5 of the box head, and has no convolution of its own."""
    torch.manual_seed(0)
    network = small_conv5().eval()
    assert not network.mask_head.convs
    assert network.mask_head.deconv.in_channels == 2048
    losses = backward(network, scene(masks=True))
    assert losses["mask"] > 0
    assert gradients(network)["box_head.body.layer4.0.conv1.weight"].any()
    found = detect(network, scene(masks=True))
    assert found.masks.shape == (2, 100, 14, 14)


def test_conv5_runs_once_on_each_region_that_is_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the losses and gradients of two passes, of all regions for the boxes and of the objects for the masks.

    In double precision: single precision sums the gradients of one pass and of two to values that differ in the third
    digit.
    """
    torch.manual_seed(0)
    network = small_conv5().eval().double()
    batch = scene(masks=True)
    counted: list[int] = []
    network.box_head.body.layer4.register_forward_hook(lambda _, inputs, __: counted.append(len(inputs[0])))
    torch.manual_seed(1)
    once = backward(network, batch)
    regions = 2 * network.samples
    assert counted == [regions]
    ours = gradients(network)

    counted.clear()
    network.zero_grad()
    drawn = []

    def sample_regions(*arguments: Any) -> Any:
        drawn.append(box_head.sample_regions(*arguments))
        return drawn[-1]

    monkeypatch.setattr(faster_rcnn, "sample_regions", sample_regions)
    torch.manual_seed(1)
    features = network.backbone(batch.images, batch.sizes)
    predictions = network.rpn.survey(features, batch.images.shape[-2:])
    twice = FasterRCNN._loss(network, batch, features, predictions)
    objects, matched = network._objects(drawn[0][0], drawn[0][2])
    twice |= network.mask_head.loss(network.masks(features, objects), objects, batch.targets, matched)
    sum(twice.values()).backward()
    assert counted == [regions, objects.valid.numel()]
    assert_close(once, {name: loss.detach() for name, loss in twice.items()})
    theirs = gradients(network)
    for name in ours:
        assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-9 * float(theirs[name].abs().max()), msg=name)


@torch.no_grad()
def test_masks_are_those_of_the_boxes_and_classes_that_were_found() -> None:
    torch.manual_seed(0)
    network, batch = TestWithPyramid.make(score_threshold=0.0).eval(), scene(masks=True)
    found = detect(network, batch)
    features = network.backbone(batch.images, batch.sizes)
    alone = network.masks(features, found._replace(masks=None)).sigmoid().unflatten(0, found.valid.shape)
    assert found.masks.shape == (2, 100, 28, 28)
    assert len(found.labels[found.valid].unique()) > 1
    assert_close(found.masks[found.valid], alone[found.valid])
    assert not found.masks[~found.valid].any()
