from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from detseg.errors import DataError
from detseg.models import Detector, MaskRCNN
from detseg.modules import FPN, MaskHead, Res5Head, RoIHeads, RoIPool, TwoMLPHead
from detseg.modules.backbones import ResNet
from tests.models.detectors import SmallBackbone, mask_rcnn
from tests.models.tester import CLASSES, OBJECTS, DetectorTester, backward, detect, gradients, scene

EXHAUSTIVE = {
    "rpn_batch_size_per_image": 10**6,
    "rpn_positive_fraction": 1.0,
    "batch_size_per_image": 10**6,
    "positive_fraction": 1.0,
}


class TestWithPyramid(DetectorTester):
    masks = True
    exhaustive = EXHAUSTIVE

    @classmethod
    def make(cls, **arguments: Any) -> Detector:
        backbone = FPN(SmallBackbone(), channels=32)
        return mask_rcnn(backbone, CLASSES, TwoMLPHead(64), mask_head=MaskHead(1, channels=16), **arguments)

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
        settings = {"rpn_sizes": [[16, 32, 64]], "pooler": RoIPool(), **arguments}
        return mask_rcnn(SmallBackbone([2]), CLASSES, TwoMLPHead(128), mask_head=MaskHead(1, channels=16), **settings)


def test_losses_have_names() -> None:
    losses = TestWithPyramid.make().loss(scene(masks=True))
    assert list(losses) == ["loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"]


def test_data_without_masks_is_an_error() -> None:
    with pytest.raises(DataError, match="learns from masks"):
        TestWithPyramid.make().loss(scene())


def small_conv5() -> MaskRCNN:
    return mask_rcnn(
        ResNet("resnet50", stages=[4]),
        CLASSES,
        Res5Head(),
        batch_size_per_image=4,
        rpn_pre_nms_top_n=(50, 20),
        rpn_post_nms_top_n=(20, 10),
        rpn_sizes=[[32]],
    )


def test_conv5_is_shared_by_both_heads() -> None:
    """Figure 4, left: the mask head begins behind the conv5 of the box head, and has no convolution of its own."""
    torch.manual_seed(0)
    model = small_conv5().eval()
    assert not model.roi_heads.mask_head.convs
    assert model.roi_heads.mask_head.conv5_mask.in_channels == 2048
    losses = backward(model, scene(masks=True))
    assert losses["loss_mask"] > 0
    assert gradients(model)["roi_heads.box_head.layer4.0.conv1.weight"].any()
    found = detect(model, scene(masks=True))
    assert found.masks.shape == (2, 100, 14, 14)


def test_conv5_runs_once_on_each_region_that_is_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the losses and gradients of two passes, of all regions for the boxes and of the objects for the masks.

    In double precision: single precision sums the gradients of one pass and of two to values that differ in the third
    digit.
    """
    torch.manual_seed(0)
    model = small_conv5().eval().double()
    batch = scene(masks=True)._replace(seeds=torch.arange(2))
    counted: list[int] = []
    model.roi_heads.box_head.layer4.register_forward_hook(lambda _, inputs, __: counted.append(len(inputs[0])))
    once = backward(model, batch)
    heads, regions = model.roi_heads, 2 * 4
    assert counted == [regions]
    ours = gradients(model)

    counted.clear()
    model.zero_grad()
    drawn = []

    def sample(*arguments: Any) -> Any:
        drawn.append(type(heads).sample(heads, *arguments))
        return drawn[-1]

    monkeypatch.setattr(heads, "sample", sample)
    features = model.backbone(batch.images, batch.image_sizes)
    predictions = model.rpn(features, batch.images.shape[-2:])
    proposals = model.rpn.propose(predictions, batch.image_sizes, training=True)
    twice = RoIHeads.loss(heads, features, proposals, batch.targets, batch.seeds)
    twice = model.rpn.loss(features, predictions, batch.targets, batch.seeds) | twice
    (regions_drawn, matched), objects = drawn[0], heads.foreground(drawn[0][0])
    assert regions_drawn.valid.numel() == regions
    matched = matched[:, : objects.valid.shape[1]]
    twice |= heads.mask_head.loss(heads.masks(features, objects), objects, batch.targets, matched)
    sum(twice.values()).backward()
    assert counted == [regions, objects.valid.numel()]
    assert_close(once, {name: loss.detach() for name, loss in twice.items()})
    theirs = gradients(model)
    for name in ours:
        assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-9 * float(theirs[name].abs().max()), msg=name)


@torch.no_grad()
def test_masks_are_those_of_the_boxes_and_classes_that_were_found() -> None:
    torch.manual_seed(0)
    model, batch = TestWithPyramid.make(score_threshold=0.0).eval(), scene(masks=True)
    found = detect(model, batch)
    features = model.backbone(batch.images, batch.image_sizes)
    alone = model.roi_heads.masks(features, found._replace(masks=None)).sigmoid().unflatten(0, found.valid.shape)
    assert found.masks.shape == (2, 100, 28, 28)
    assert len(found.labels[found.valid].unique()) > 1
    assert_close(found.masks[found.valid], alone[found.valid])
    assert not found.masks[~found.valid].any()
