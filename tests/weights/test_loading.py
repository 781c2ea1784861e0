"""Weights of whole detectors, for whatever classes: which rows are taken, what is said, and what is refused."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models import WeightsEnum

from detseg import checkpoint
from detseg.configurable import from_config, to_config
from detseg.errors import CheckpointError
from detseg.models import FasterRCNN
from detseg.modules import FPN, RPN, AnchorGenerator, RoIHeads, TwoMLPHead
from detseg.modules.backbones import MobileNetV2, MobileNetV3, ResNet
from detseg.tasks import DetectionTask
from detseg.weights import model_card
from detseg.weights.torchvision import COCO, from_torchvision, load_weights, match_classes, to_torchvision

LAYERS = "roi_heads.box_predictor.cls_score, roi_heads.box_predictor.bbox_pred"  # that depend on the classes

# The ids in COCO's own annotation files: 91 labels, of which these are used.
IDS = [label for label in range(1, 91) if label not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


def heads(channels: int) -> RoIHeads:
    return RoIHeads(box_head=TwoMLPHead(channels))


def small(num_classes: int, weights: str | None = None) -> FasterRCNN:
    return FasterRCNN(FPN(MobileNetV2(), 16), num_classes, roi_heads=heads(8), weights=weights)


def rows(model: FasterRCNN) -> dict[str, Tensor]:
    """What belongs to each class."""
    return {
        "scores": model.roi_heads.box_predictor.cls_score.weight.detach().clone(),
        "biases": model.roi_heads.box_predictor.cls_score.bias.detach().clone(),
        "deltas": model.roi_heads.box_predictor.bbox_pred.weight.detach().view(-1, 4, 8).clone(),
        "shifts": model.roi_heads.box_predictor.bbox_pred.bias.detach().view(-1, 4).clone(),
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, FasterRCNN]:
    """A file as torchvision writes it of a network for 91 labels, and the network."""
    torch.manual_seed(0)
    model = small(90)
    for value in (model.roi_heads.box_predictor.cls_score.bias, model.roi_heads.box_predictor.bbox_pred.bias):
        torch.nn.init.normal_(value)
    file = tmp_path_factory.mktemp("weights") / "coco.pth"
    torch.save(to_torchvision(model.state_dict()), file)
    return str(file), model


def test_labels_of_coco() -> None:
    assert list(COCO.values()) == IDS
    assert (COCO["person"], COCO["stop sign"], COCO["toothbrush"]) == (1, 13, 90)


def test_coco_in_its_order(source) -> None:
    file, of_91 = source
    loaded, expected = small(80, file), rows(of_91)
    used = [label - 1 for label in IDS]
    for name, value in rows(loaded).items():
        assert torch.equal(value[:80], expected[name][used])
    assert torch.equal(rows(loaded)["biases"][80], expected["biases"][90])  # of the background
    assert torch.equal(loaded.rpn.head.conv[0].weight, of_91.rpn.head.conv[0].weight)
    assert type(from_config(to_config(loaded))) is FasterRCNN
    assert torch.equal(
        loaded.backbone.backbone.features[7].conv[0][0].weight, of_91.backbone.backbone.features[7].conv[0][0].weight
    )


def test_classes_are_matched_by_name(source, caplog) -> None:
    file, of_91 = source
    model, expected = small(3, file), rows(of_91)
    random = rows(model)
    with caplog.at_level(logging.INFO):
        match_classes(model, ["toothbrush", "nut", "person"])
    for name, value in rows(model).items():
        assert torch.equal(value[0], expected[name][89])
        assert torch.equal(value[1], random[name][1])
        assert torch.equal(value[2], expected[name][0])
    assert torch.equal(rows(model)["scores"][3], expected["scores"][90])
    assert caplog.messages == [f"{file}: {LAYERS} begin at random for the classes nut, which it lacks"]

    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight.zero_()  # as if it had learnt
    match_classes(model, ["toothbrush", "nut", "person"])
    assert not model.roi_heads.box_predictor.cls_score.weight.any()


def test_as_many_classes_in_another_order(source) -> None:
    file, of_91 = source
    model, expected = small(80, file), rows(of_91)
    match_classes(model, list(reversed(COCO)))
    for name, value in rows(model).items():
        assert torch.equal(value[:80], expected[name][[label - 1 for label in reversed(IDS)]])


def test_other_classes_begin_at_random(source, caplog) -> None:
    file, of_91 = source
    for count in (2, 80):
        torch.manual_seed(1)
        random = rows(small(count))
        torch.manual_seed(1)
        model = small(count, file)
        with caplog.at_level(logging.INFO):
            match_classes(model, [f"part {number}" for number in range(count)])
        for name, value in rows(model).items():
            assert torch.equal(value, random[name])
        assert torch.equal(model.roi_heads.box_head.fc7.weight, of_91.roi_heads.box_head.fc7.weight)
        assert f"{LAYERS} begin at random: it has none of these classes" in caplog.messages[-1]


def test_classes_without_names(tmp_path, caplog) -> None:
    model = small(3)
    torch.save(to_torchvision(model.state_dict()), tmp_path / "three.pth")
    same, fewer = small(3, str(tmp_path / "three.pth")), small(2, str(tmp_path / "three.pth"))
    assert all(torch.equal(value, rows(model)[name]) for name, value in rows(same).items())
    with caplog.at_level(logging.INFO):
        match_classes(same, ["a", "b", "c"])
        match_classes(fewer, ["a", "b"])
    assert "copied in order" in caplog.messages[0]
    assert "begin at random" in caplog.messages[1]


def published(model: FasterRCNN, classes: tuple[str, ...], folder: Path) -> Path:
    task = DetectionTask(model)
    task.model.class_names = classes
    model_card.write(folder, task.state_dict(), task.describe())
    checkpoint.save(task, folder / "whole.ckpt")
    return folder


@pytest.mark.parametrize("name", ["", "whole.ckpt"])
def test_from_what_was_trained_here(tmp_path, name) -> None:
    model = small(2)
    place = published(model, ("nut", "bolt"), tmp_path / "nuts") / name
    loaded, expected = small(2, str(place)), rows(model)
    match_classes(loaded, ["bolt", "nut"])
    for part, value in rows(loaded).items():
        assert torch.equal(value[:2], expected[part][[1, 0]])


def test_epsilon_of_what_was_trained_here_comes_along(tmp_path) -> None:
    def make(weights: str | None = None, **settings: Any) -> FasterRCNN:
        body = ResNet("resnet18", norm="frozen", **settings)
        return FasterRCNN(FPN(body, 8), 2, roi_heads=heads(8), weights=weights)

    place = published(make(eps=0.0), ("nut", "bolt"), tmp_path / "nuts")
    loaded = make(str(place))
    assert loaded.backbone.backbone.layer4[1].bn2.eps == 0.0
    assert from_config(to_config(loaded)).backbone.backbone.layer4[1].bn2.eps == 0.0


def test_epsilon_comes_along_without_a_pyramid(tmp_path) -> None:
    def make(weights: str | None = None, **settings: Any) -> FasterRCNN:
        body = ResNet("resnet18", stages=[4], norm="frozen", **settings)
        return FasterRCNN(body, 2, roi_heads=heads(8), weights=weights)

    place = published(make(eps=0.0), ("nut", "bolt"), tmp_path / "nuts")
    loaded = make(str(place))
    assert loaded.backbone.layer3[1].bn2.eps == 0.0
    assert from_config(to_config(loaded)).backbone.layer3[1].bn2.eps == 0.0


def test_a_file_that_is_taken_for_cocos_is_said(tmp_path, caplog) -> None:
    model = FasterRCNN(FPN(ResNet("resnet18"), 8), 90, roi_heads=heads(8))
    torch.save(to_torchvision(model.state_dict()), tmp_path / "x.pth")
    with caplog.at_level("INFO", logger="detseg"):
        load_weights(FasterRCNN(FPN(ResNet("resnet18"), 8), 2, roi_heads=heads(8)), str(tmp_path / "x.pth"))
    assert "x.pth: assuming COCO's classes, because it has 91 labels" in caplog.text


def test_a_published_file_is_known_by_its_hash(tmp_path, monkeypatch) -> None:
    """torchvision adds nothing to the variances of its oldest weights."""
    model = FasterRCNN(FPN(ResNet("resnet18", norm="frozen"), 8), 2, roi_heads=heads(8))
    torch.save(to_torchvision(model.state_dict()), tmp_path / "x.pth")
    load_weights(model, str(tmp_path / "x.pth"))
    assert model.backbone.backbone.bn1.eps == 1e-5
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: SimpleNamespace(hexdigest=lambda: "258fb6c6" + 56 * "0"))
    load_weights(model, str(tmp_path / "x.pth"))
    assert model.backbone.backbone.bn1.eps == 0.0
    assert to_config(model)["init_args"]["backbone"]["init_args"]["backbone"]["init_args"]["eps"] == 0.0


def test_names_of_published_mask_heads() -> None:
    old = {"roi_heads.mask_head.mask_fcn2.bias": torch.ones(3)}
    assert list(from_torchvision(old)) == ["roi_heads.mask_head.convs.1.bias"]
    assert list(to_torchvision(from_torchvision(old))) == ["roi_heads.mask_head.1.0.bias"]


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ("absent.pth", "absent.pth: no such file"),
        ("torchvision:COCO_V9", "COCO_V9: torchvision has COCO_V1 of fasterrcnn_resnet50_fpn"),
        ("torchvision:ssd300_vgg16:COCO_V1", "torchvision has .*fasterrcnn_resnet50_fpn_v2:COCO_V1.*name one"),
        ("torchvision:fasterrcnn_resnet50_fpn_v2:COCO_V1", "could not fetch https.*: no route; pass a local file"),
        ("other.pth", r"other.pth: transformer.weight: not a tensor"),
        ("part.pth", r"part.pth: not weights of this FasterRCNN: \d+ missing \(such as backbone"),
        ("wide.pth", r"of another shape \(such as roi_heads.box_head.fc6.weight"),
        ("classifier.ckpt", "classifier.ckpt: not the checkpoint of a detector"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, monkeypatch, weights, reason) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", refuse)
    monkeypatch.chdir(tmp_path)
    model = FasterRCNN(FPN(ResNet("resnet18"), 8), 2, roi_heads=heads(8))
    wide = FasterRCNN(FPN(ResNet("resnet18"), 8), 2, roi_heads=heads(16))
    torch.save({"transformer.weight": torch.zeros(1)}, "other.pth")
    torch.save({"rpn.head.cls_logits.weight": torch.zeros(3, 8, 1, 1)}, "part.pth")
    torch.save(to_torchvision(wide.state_dict()), "wide.pth")
    torch.save({"state_dict": {}, "detseg": {"model": {"init_args": {}}}}, "classifier.ckpt")
    with pytest.raises(CheckpointError, match=reason):
        load_weights(model, weights)


def test_two_detectors_of_one_structure_are_told_apart_by_name() -> None:
    backbone = FPN(MobileNetV3(stages=[5], return_stage_start=True))
    model = FasterRCNN(backbone, 2, RPN(AnchorGenerator([[32, 64, 128, 256, 512]] * 3)))
    with pytest.raises(CheckpointError, match=r"large_fpn:COCO_V1, torchvision:.*large_320_fpn:COCO_V1; name one"):
        load_weights(model, "torchvision:COCO_V1")


def test_networks_that_torchvision_does_not_have() -> None:
    with pytest.raises(CheckpointError, match=r"torchvision:COCO_V1: torchvision has .*; none of these has"):
        load_weights(small(2), "torchvision:COCO_V1")
    model = FasterRCNN(ResNet("resnet18", stages=[4]), 2)
    with pytest.raises(CheckpointError, match=r"torchvision:COCO_V1: backbone.conv1.weight: not a tensor"):
        load_weights(model, "torchvision:COCO_V1")
