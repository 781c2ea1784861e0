"""`detseg convert` of detectors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from detseg import checkpoint, cli
from tests.cli.conftest import BEST, Refused


@pytest.fixture(autouse=True)
def here(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_run)


def test_conversion_there_and_back() -> None:
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    theirs = TorchvisionFasterRCNN(backbone, num_classes=4).state_dict()
    torch.save(theirs, "theirs.pth")
    cli.main(["convert", "theirs.pth", "ours.ckpt", "--classes", "red,green,blue"])
    task = checkpoint.load("ours.ckpt")
    assert task.class_names == ("red", "green", "blue")
    cli.main(["convert", "ours.ckpt", "back.pth"])
    back = checkpoint.read("back.pth")
    background = {"roi_heads.box_predictor.bbox_pred.weight", "roi_heads.box_predictor.bbox_pred.bias"}
    for name, value in theirs.items():
        rows = slice(4, None) if name in background else slice(None)  # nothing reads the background's boxes
        assert torch.equal(back[name][rows], value[rows]) if value.dim() else back[name] == value


def test_conversion_of_something_else(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.zeros(2)}, "foreign.pth")
    for arguments in (["foreign.pth", "x.ckpt"], ["theirs.pth", "x.ckpt", "--classes", "red"], ["absent.pth", "x"]):
        with pytest.raises(SystemExit):
            cli.main(["convert", *arguments])
        assert "error: " in capsys.readouterr().err
    assert not Path("x.ckpt").exists()


def test_conversion_of_a_network_that_torchvision_does_not_have(refused: Refused) -> None:
    said = refused("convert", BEST, "mobile.pth")
    assert f"error: {BEST}: holds FasterRCNN on FPN on MobileNetV2" in said
    assert not Path("mobile.pth").exists()
    assert "error: foreign.pth: holds weight, but not the weights of one of fasterrcnn" in refused(
        "convert", "foreign.pth", "x.ckpt"
    )


def test_conversion_makes_the_folder(tiny_run: Path) -> None:
    cli.main(["convert", "ours.ckpt", "new/folder/back.pth"])
    assert "roi_heads.box_predictor.cls_score.weight" in checkpoint.read("new/folder/back.pth")
