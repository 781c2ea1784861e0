"""A classifier from folders of images to a checkpoint, its figures and its answers, and on to a detector."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from detseg import checkpoint, cli
from detseg.models import Classifier
from detseg.modules.backbones import ResNet
from tests.cli.conftest import entries
from tests.colours import COLOURS, write_classes

SETTINGS = [
    *(
        "--model",
        "Classifier",
        "--model.backbone",
        "ResNet",
        "--model.backbone.name",
        "resnet18",
    ),
    *(
        "--data",
        "ClassificationDataModule",
        "--data.root",
        "classes",
        "--data.transforms.RandomResizedCrop.size=32",
        "--data.num_workers",
        "0",
    ),
    *("--data.batch_size", "6", "--task.optimizer.name", "adamw", "--task.lr", "0.05", "--trainer.accelerator", "cpu"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs, in runs/colours."""
    folder = tmp_path_factory.mktemp("classification")
    write_classes(folder / "classes", train=8, val=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cli.main(["train", *SETTINGS, "--name", "colours", "--trainer.max_epochs", "3"])
    return folder


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_it_learns_and_leaves_its_figures(folder: Path) -> None:
    figures = json.loads((folder / "runs/colours/metrics.json").read_text())
    assert figures["top1"] == 1.0
    assert {f"top1/{name}" for name in COLOURS} <= set(figures)
    task = checkpoint.load(folder / "runs/colours/best.ckpt")
    assert isinstance(task.model, Classifier)
    assert task.class_names == ("blue", "green", "red")


def test_evaluate_repeats_the_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["evaluate", "--checkpoint", "runs/colours/best.ckpt", "--metrics", "again.json"])
    shown = capsys.readouterr().out
    assert "top1   100.0 %" in shown
    assert "red" in shown
    before, after = (json.loads(Path(file).read_text()) for file in ("runs/colours/metrics.json", "again.json"))
    assert after["top1"] == before["top1"]
    assert after["loss"] == pytest.approx(before["loss"], rel=1e-4)


def test_predict_says_what_an_image_shows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["predict", "classes/val/green", "--checkpoint", "runs/colours/best.ckpt", "--out", "out"])
    answers = entries("out")
    assert [answer["classes"][0] for answer in answers] == ["green"] * 4
    assert sum(answers[0]["scores"]) == pytest.approx(1, abs=1e-3)
    assert "0.png: green" in capsys.readouterr().err


def test_convert_refuses_a_classifier(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["convert", "runs/colours/best.ckpt", "x.pth"])
    assert "best.ckpt: holds Classifier" in capsys.readouterr().err


def test_a_training_is_resumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", *SETTINGS, "--name", "colours", "--trainer.max_epochs", "4", "--resume", "last"])
    assert "epoch 3: top1" in capsys.readouterr().err


def test_its_weights_are_those_of_a_detectors_backbone(folder: Path) -> None:
    trained = checkpoint.load("runs/colours/best.ckpt").model.backbone.state_dict()
    for name, value in ResNet("resnet18", weights="runs/colours/best.ckpt").state_dict().items():
        assert torch.equal(value, trained[name]), name


def test_data_of_another_kind_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", *SETTINGS, "--data", "Shapes"])
    assert "Shapes" in capsys.readouterr().err


def test_images_too_small_for_a_network_are_said_at_the_start(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", *SETTINGS[:2], "--model.backbone", "AlexNet", *SETTINGS[6:]])
    assert "data.transforms: RandomResizedCrop: size 32 is too small for AlexNet" in capsys.readouterr().err


def test_a_classifier_has_no_detections_to_write(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--checkpoint", "runs/colours/best.ckpt", "--out", "results.json"])
    assert "--out results.json: Classifier has no detections" in capsys.readouterr().err


def test_weights_without_a_head_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(ResNet("resnet18").state_dict(), "body.pth")
    with caplog.at_level("INFO"):
        Classifier(ResNet("resnet18", weights="body.pth"), num_classes=3)
    assert "resnet18: weights body.pth have no fc.weight, fc.bias: at random" in caplog.text
