"""Detectors of version 0.1.0: their checkpoints and settings give the same detector today."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detseg import checkpoint
from detseg.compat import translate_settings
from detseg.configurable import from_config
from detseg.models import RCNN, FasterRCNN, FastRCNN, MaskRCNN
from detseg.models.fast_rcnn import FastRCNNHeads
from detseg.models.mask_rcnn import MaskRCNNHeads
from detseg.modules import (
    FPN,
    RPN,
    AnchorGenerator,
    BalancedSampler,
    ConvFCHead,
    MaskHead,
    Matcher,
    Postprocessor,
    RoIAlign,
    RoIHeads,
    RoIPool,
    RPNHead,
    TwoMLPHead,
)
from detseg.modules.backbones import MobileNetV1
from detseg.structures import Instances
from tests.models.tester import CLASSES, detect, scene

REAL = Path(__file__).parents[3] / "shared" / "checkpoints-0.1.0"

# Names of 0.1.0 by today's, as regular expressions, first match first.
OLD_NAMES = {
    r"^backbone\.backbone\.": "backbone.body.",
    r"^backbone\.lateral_convs\.": "backbone.inner.",
    r"^backbone\.output_convs\.": "backbone.outer.",
    r"^rpn\.head\.conv\.0\.": "rpn.conv.",
    r"^rpn\.head\.conv\.1\.": "rpn.deeper.0.",
    r"^rpn\.head\.cls_logits\.": "rpn.objectness.",
    r"^rpn\.head\.bbox_pred\.": "rpn.deltas.",
    r"^roi_heads\.box_head\.": "box_head.body.",
    r"^(roi_heads\.box_predictor\.cls_score)\.": "box_head.classes.",
    r"^(roi_heads\.box_predictor\.bbox_pred)\.": "box_head.deltas.",
    r"^roi_heads\.mask_head\.convs\.": "mask_head.convs.",
    r"^roi_heads\.mask_head\.conv5_mask\.": "mask_head.deconv.",
    r"^roi_heads\.mask_head\.mask_fcn_logits\.": "mask_head.logits.",
    r"^cls_score\.": "classes.",
    r"^bbox_pred\.": "deltas.",
}


def thin(**settings: Any) -> MobileNetV1:
    return MobileNetV1(alpha=0.125, **settings)


def old(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class": name, "arguments": arguments}


OLD_THIN = old("MobileNetV1", alpha=0.125, stages=[3])
OLD_PYRAMID = old("FPN", body=old("MobileNetV1", alpha=0.125, stages=[3, 4]), channels=8)

Case = tuple[dict[str, Any], Callable[[], nn.Module]]

CASES: dict[str, Case] = {
    "Faster R-CNN": (
        old(
            "FasterRCNN",
            backbone=OLD_PYRAMID,
            num_classes=CLASSES,
            head=old("TwoFCHead", in_channels=8, size=5, channels=16),
            anchor_sizes=[[16], [32], [64]],
            anchor_ratios=[1.0, 2.0],
            rpn_iou=[0.2, 0.6],
            rpn_samples=32,
            rpn_depth=2,
            rpn_candidates=[100, 50],
            proposals=[50, 20],
            rpn_nms=0.6,
            samples=16,
            score_threshold=0.0,
            candidates=60,
            detections=30,
        ),
        lambda: FasterRCNN(
            FPN(thin(stages=[3, 4]), 8),
            CLASSES,
            RPN(
                AnchorGenerator([[16], [32], [64]], [1.0, 2.0]),
                RPNHead(2),
                Matcher(0.6, 0.2, allow_low_quality_matches=True),
                BalancedSampler(32, 0.5),
                pre_nms_top_n=(100, 50),
                post_nms_top_n=(50, 20),
                nms_threshold=0.6,
            ),
            RoIHeads(
                box_head=TwoMLPHead(16, pool_size=5),
                sampler=BalancedSampler(16, 0.25),
                postprocessor=Postprocessor(0.5, 0.0, topk_candidates=60, detections_per_image=30),
            ),
        ),
    ),
    "Mask R-CNN": (
        old(
            "MaskRCNN",
            backbone=OLD_THIN,
            num_classes=CLASSES,
            head=old("TwoFCHead", in_channels=32, channels=16),
            anchor_sizes=[[16, 32]],
            pooling="roi_pool",
            mask_channels=8,
            mask_norm="batch",
            iou=0.6,
            nms=0.4,
            score_threshold=0.0,
        ),
        lambda: MaskRCNN(
            thin(stages=[3]),
            CLASSES,
            RPN(AnchorGenerator([[16, 32]])),
            MaskRCNNHeads(
                RoIPool(),
                TwoMLPHead(16),
                mask_head=MaskHead(channels=8, norm="batch"),
                matcher=Matcher(0.6, 0.6, allow_low_quality_matches=False),
                postprocessor=Postprocessor(0.4, 0.0),
            ),
        ),
    ),
    "Fast R-CNN": (
        old(
            "FastRCNN",
            backbone=OLD_PYRAMID,
            num_classes=CLASSES,
            head=old("ConvFCHead", in_channels=8, depth=1, channels=16, norm=None),
            pooling="roi_align",
            background_iou=0.2,
            positive_fraction=0.5,
            score_threshold=0.0,
        ),
        lambda: FastRCNN(
            FPN(thin(stages=[3, 4]), 8),
            CLASSES,
            FastRCNNHeads(
                RoIAlign(),
                ConvFCHead(16, num_convs=1, norm=None),
                matcher=Matcher(0.5, 0.5, allow_low_quality_matches=False, min_bg_iou=0.2),
                sampler=BalancedSampler(64, 0.5),
                postprocessor=Postprocessor(0.3, 0.0),
            ),
        ),
    ),
    "R-CNN": (
        old(
            "RCNN",
            backbone=old("MobileNetV1", alpha=0.125),
            num_classes=CLASSES,
            size=40,
            context=4,
            scores="softmax",
            box_regression=False,
            samples=8,
            batch=7,
            score_threshold=0.0,
        ),
        lambda: RCNN(
            thin(),
            CLASSES,
            crop_size=40,
            context=4,
            scores="softmax",
            box_regression=False,
            sampler=BalancedSampler(8, 0.25),
            postprocessor=Postprocessor(0.3, 0.0),
            crops_per_batch=7,
        ),
    ),
}


def old_name(name: str) -> str:
    for pattern, replacement in OLD_NAMES.items():
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def settings_of(value: Any) -> Any:
    """Every setting of a detector and of its parts, to compare two."""
    if isinstance(value, nn.Module) or type(value).__module__.startswith("detseg."):
        names = ("training", "built_for", "init_args", "pretrained")
        names += ("class_names", "category_ids", "preprocessing", "thresholds")
        plain = {key: item for key, item in vars(value).items() if not key.startswith("_") and key not in names}
        plain |= dict(value.named_children()) if isinstance(value, nn.Module) else {}
        return type(value).__name__, {key: settings_of(item) for key, item in plain.items() if key != "backbone"}
    if isinstance(value, (list, tuple)):
        return [settings_of(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_gives_the_same_detector(name: str, tmp_path: Path) -> None:
    description, make = CASES[name]
    torch.manual_seed(0)
    expected = make().eval()
    state = {f"network.{old_name(key)}": value for key, value in expected.state_dict().items()}
    about = {"format": 1, "network": description, "classes": ["a", "b", "c"], "category_ids": [1, 2, 3]}
    about |= {"data": {}, "config": {}, "metrics": {}}
    torch.save({"state_dict": state, "detseg": about}, tmp_path / "old.ckpt")
    loaded = checkpoint.load(tmp_path / "old.ckpt").model
    assert settings_of(loaded) == settings_of(expected)
    batch = scene(proposals=expected.needs_proposals)
    with torch.no_grad():
        # In double precision: kernels may round differently where weights lie in memory.
        ours, same = detect(expected.double(), batch), detect(loaded.double(), batch)
    assert ours.valid.any()
    for value, other in zip(ours, same, strict=True):
        if value is not None or other is not None:
            assert_close(value, other)


@pytest.mark.parametrize("name", CASES)
def test_settings_give_the_same_detector(name: str) -> None:
    def in_yaml(value: Any) -> Any:
        if isinstance(value, dict):
            renamed = {"class": "class_path", "arguments": "init_args"}
            return {renamed.get(key, key): in_yaml(item) for key, item in value.items()}
        return value

    def described(value: Any) -> Any:
        if isinstance(value, dict):
            renamed = {"class_path": "class"}
            return {renamed.get(key, key): described(item) for key, item in value.items()}
        return value

    description, make = CASES[name]
    settings = {"model": {"network": in_yaml(description), "lr": 0.1}}
    translated = translate_settings(settings)
    assert translated["task"] == {"lr": 0.1}
    assert settings_of(from_config(described(translated["model"]))) == settings_of(make())


@pytest.mark.skipif(not REAL.exists(), reason="needs checkpoints that version 0.1.0 wrote")
@pytest.mark.parametrize("name", ["faster_fpn", "faster_single", "mask_fpn", "fast_fpn", "rcnn"])
def test_a_real_checkpoint_detects_what_it_did(name: str) -> None:
    model = checkpoint.load(REAL / f"{name}.ckpt").model
    getattr(model, "roi_heads", model).postprocessor.score_threshold = 0.0
    expected = torch.load(REAL / f"{name}.expected.pt", weights_only=True)
    proposals = expected["proposals"] and Instances(*expected["proposals"])
    with torch.no_grad():
        detections = model(expected["images"], expected["sizes"], proposals)
    assert detections.valid.sum() > 100
    for value, other in zip(detections, expected["result"], strict=True):
        assert value is other is None or torch.equal(value, other)
