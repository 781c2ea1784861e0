from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from detseg.errors import DataError
from detseg.models import Detector, MaskRCNN
from detseg.modules import FPN, Conv5Head, TwoFCHead
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
        return MaskRCNN(ResNet("resnet18", stages=[3]), CLASSES, head=TwoFCHead(128, channels=512), **settings)


def test_losses_have_names() -> None:
    losses = TestWithPyramid.make().loss(scene(masks=True))
    assert list(losses) == ["rpn_objectness", "rpn_box", "box_class", "box_delta", "mask"]


def test_data_without_masks_is_an_error() -> None:
    with pytest.raises(DataError, match="learns from masks"):
        TestWithPyramid.make().loss(scene())


def test_conv5_is_shared_by_both_heads() -> None:
    """Figure 4, left: the mask head begins behind the conv5 of the box head, and has no convolution of its own."""
    torch.manual_seed(0)
    network = MaskRCNN(
        ResNet("resnet50", stages=[4]),
        CLASSES,
        Conv5Head(),
        samples=8,
        rpn_candidates=(50, 20),
        proposals=(20, 10),
        anchor_sizes=[[32]],
    ).eval()
    assert not network.mask_head.convs
    assert network.mask_head.deconv.in_channels == 2048
    losses = backward(network, scene(masks=True))
    assert losses["mask"] > 0
    assert gradients(network)["box_head.body.layer4.0.conv1.weight"].any()
    found = detect(network, scene(masks=True))
    assert found.masks.shape == (2, 100, 14, 14)


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
