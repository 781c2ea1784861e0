"""`detseg publish`: what is in the folder, that it is loaded wherever a checkpoint is, and what is refused.

And what `detseg convert` refuses, or says.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from detseg import checkpoint, cli
from detseg.configurable import to_config
from detseg.errors import CheckpointError
from detseg.models import Classifier, FasterRCNN
from detseg.modules import FPN, RPN, AnchorGenerator, BalancedSampler, RoIHeads, RoIPool, TwoMLPHead
from detseg.modules.backbones import Backbone, MobileNetV2, MobileNetV3, ResNet
from detseg.tasks import ClassificationTask, DetectionTask
from tests.cli.conftest import DATA
from tests.colours import IDS, ColourDetector, colours, write_colours

pytestmark = pytest.mark.usefixtures("quick_initialization")

TRAINING = f"""\
model:
  class_path: FasterRCNN
  init_args:
    backbone:
      class_path: FPN
      init_args:
        channels: 8
        backbone: MobileNetV2
    rpn:
      post_nms_top_n: [10, 10]
    roi_heads:
      box_head:
        class_path: TwoMLPHead
        init_args:
          channels: 8
      sampler:
        batch_size_per_image: 8
        positive_fraction: 0.25
data:
{indent(DATA.replace("colours", "data"), "  ")}trainer:
  accelerator: cpu
  fast_dev_run: true
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and two published networks: one that finds its colours, and one with weights to begin from."""
    folder = tmp_path_factory.mktemp("publishing")
    write_colours(folder / "data")
    (folder / "train.yaml").write_text(TRAINING)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        heads = RoIHeads(box_head=TwoMLPHead(8), sampler=BalancedSampler(8, 0.25))
        save(ColourDetector(blunder=2.0), "colours.ckpt")
        save(FasterRCNN(FPN(MobileNetV2(), 8), 3, RPN(post_nms_top_n=(10, 10)), heads), "tiny.ckpt")
        cli.main(["publish", "colours.ckpt", "--out", "colours"])
        cli.main(["publish", "tiny.ckpt", "--out", "tiny"])
    return folder


def save(model: Any, name: str) -> None:
    task = DetectionTask(model)
    task.model.class_names, task.model.category_ids = tuple(IDS), tuple(IDS.values())
    task.data_recipe = to_config(colours(Path("data")))
    task.config, task.metric_values = {"task": {"lr": 0.1}}, {"AP": 0.25, "AP_small": math.nan}
    checkpoint.save(task, name)


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_the_card_says_it_all() -> None:
    card = json.loads(Path("tiny/card.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert card["classes"] == ["red", "green", "blue"]
    assert card["category_ids"] == list(IDS.values())
    assert card["model"] == to_config(checkpoint.load("tiny.ckpt").model)
    assert card["data"]["class"] == "COCO"
    assert card["config"] == {"task": {"lr": 0.1}}
    assert card["metrics"] == {"AP": 0.25, "AP_small": None}
    assert card["sha256"] == hashlib.sha256(Path("tiny/model.safetensors").read_bytes()).hexdigest()
    assert card["versions"]["torch"] == str(torch.__version__)
    with safe_open("tiny/model.safetensors", "pt") as file:
        assert set(file.keys()) == set(checkpoint.load("tiny.ckpt").model.state_dict())


def test_it_is_the_same_task() -> None:
    one, other = checkpoint.load("tiny.ckpt"), checkpoint.load("tiny")
    assert str(one.describe()) == str(other.describe())
    assert math.isnan(other.metric_values["AP_small"])
    for name, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_it_is_evaluated_and_predicts(capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("colours.ckpt", "colours"):
        cli.main(["evaluate", "--checkpoint", place, "--metrics", f"{place}.json"])
        cli.main(["predict", "data/val", "--checkpoint", place, "--out", f"out_{place}"])
    one, other = (json.loads(Path(f"{place}.json").read_text()) for place in ("colours.ckpt", "colours"))
    assert 0 < one["AP"] < 1
    assert other["AP"] == one["AP"]
    assert Path("out_colours/predictions.jsonl").read_text() == Path("out_colours.ckpt/predictions.jsonl").read_text()


def test_a_training_begins_from_it(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", "--config", "train.yaml", "--model.weights", "tiny"])
    assert (
        "tiny: roi_heads.box_predictor.bbox_pred, roi_heads.box_predictor.cls_score copied: it has all 3"
        in capsys.readouterr().err
    )
    cli.main(["train", "--config", "train.yaml", "--model.weights", "colours.ckpt", "--model.weights", "tiny.ckpt"])
    assert "tiny.ckpt: roi_heads.box_predictor.cls_score" in capsys.readouterr().err


def test_a_backbone_is_taken_from_a_published_classifier() -> None:
    task = ClassificationTask(Classifier(MobileNetV2(), 3))
    task.model.class_names = tuple(IDS)
    checkpoint.save(task, "classifier.ckpt")
    cli.main(["publish", "classifier.ckpt", "--out", "classifier"])
    backbone = MobileNetV2(weights="classifier")
    expected = task.model.backbone.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in backbone.state_dict().items())


def copy(target: str) -> Path:
    folder = Path(target)
    folder.mkdir()
    for file in Path("tiny").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_changed_files_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy("changed")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    for load in (checkpoint.load, lambda place: MobileNetV2(weights=place)):
        with pytest.raises(CheckpointError, match=r"changed/model.safetensors: its sha256 differs"):
            load("changed")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"changed/model.safetensors: no such file"):
        checkpoint.load("changed")


def test_others_may_read_the_weights_as_they_may_read_the_card(folder: Path) -> None:
    modes = [(folder / "tiny" / name).stat().st_mode for name in ("model.safetensors", "card.json")]
    assert modes[0] == modes[1]


def test_the_checkpoints_of_a_folder_that_is_not_published_are_named(tmp_path: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"card.json: no such file; pass one of .*/best.ckpt, .*/last.ckpt$"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("card", ["", "[1, 2]", "{}", "[" * 100_000, "null"])
def test_a_broken_card_is_refused(card: str, tmp_path: Path) -> None:
    folder = copy(str(tmp_path / "broken"))
    (folder / "card.json").write_text(card)
    with pytest.raises(CheckpointError, match=r"broken/card.json: damaged, or not the card of a published model"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    "changes", [{"model": {"class": "os.system", "init_args": {}}}, {"metrics": [1]}, {"classes": 3}]
)
def test_a_card_that_lies_is_refused_and_nothing_is_imported(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = copy(str(tmp_path / "lying"))
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, **changes}))
    with pytest.raises(CheckpointError, match=r"lying: cannot rebuild the model"):
        checkpoint.load(folder)


def test_a_card_with_a_wrong_value_is_refused(tmp_path: Path) -> None:
    folder = copy(str(tmp_path / "short"))
    card = json.loads((folder / "card.json").read_text())
    card["model"]["init_args"]["num_classes"] = []
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=r"short: cannot rebuild the model: "):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("convert", ["no.pth", "train.yaml/theirs.pth"], "TARGET train.yaml/theirs.pth: cannot be written"),
        ("convert", ["no.pth", "data"], "TARGET data: is a folder"),
        ("publish", ["no.ckpt", "--out", "train.yaml/out"], "--out train.yaml/out/model.safetensors: cannot be"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(
    command: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, *arguments])
    assert f"error: {said}" in capsys.readouterr().err


def test_a_disk_that_is_full_while_publishing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("detseg.weights.model_card.save_file", fail)
    with pytest.raises(SystemExit):
        cli.main(["publish", "tiny.ckpt", "--out", str(tmp_path / "full")])
    assert "full: cannot be written: No space left on device; name another folder" in capsys.readouterr().err


def test_instances_of_a_network_without_masks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["predict", "data/val", "--checkpoint", "tiny", "--instances", "true"])
    assert "error: --instances: tiny finds no masks of objects; leave it out" in capsys.readouterr().err


def test_nothing_is_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["publish", "tiny.ckpt", "--out", "tiny"])
    assert "error: --out tiny: exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "parts", "reason"),
    [
        (ResNet("plain18"), {}, r"holds FasterRCNN on FPN on ResNet \(plain18\); torchvision's detectors are on"),
        (ResNet("resnet18", stages=[3, 4, 5]), {}, r"ResNet \(resnet18\); .* with stages 2 to 5"),
        (
            MobileNetV3("mobilenet_v3_small", stages=[5], return_stage_start=True),
            {},
            r"MobileNetV3 \(mobilenet_v3_small\)",
        ),
        (ResNet("resnet18"), {"rpn": RPN(AnchorGenerator([[16], [32], [64], [128], [256]]))}, "has anchors of its own"),
        (ResNet("resnet18"), {"rpn": RPN(AnchorGenerator(aspect_ratios=(1.0, 2.0, 3.0)))}, "has anchors of its own"),
        (ResNet("resnet18"), {"roi_heads": RoIHeads(RoIPool())}, "has RoIPool, and torchvision's detectors RoIAlign"),
    ],
)
def test_what_torchvision_cannot_load_is_not_converted(
    body: Backbone, parts: dict[str, Any], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(FasterRCNN(FPN(body, 8), 3, **parts), str(tmp_path / "other.ckpt"))
    with pytest.raises(SystemExit):
        cli.main(["convert", str(tmp_path / "other.ckpt"), str(tmp_path / "theirs.pth")])
    assert re.search(rf"error: .*other.ckpt: .*{reason}", capsys.readouterr().err)
    assert not (tmp_path / "theirs.pth").exists()


def test_converting_says_what_torchvision_must_be_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = FasterRCNN(FPN(ResNet("resnet50", norm="frozen", eps=0.0)), 3)
    save(model, str(tmp_path / "ours.ckpt"))
    cli.main(["convert", str(tmp_path / "ours.ckpt"), str(tmp_path / "theirs.pth")])
    said = capsys.readouterr().err
    assert "fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)" in said
    assert "warning: set eps of its batch norms to 0: torchvision's default is 1e-05" in said
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)
    theirs.load_state_dict(torch.load(tmp_path / "theirs.pth", weights_only=True))


def test_converting_names_no_function_that_builds_another_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(
        FasterRCNN(FPN(ResNet("resnet50"), 8), 3, roi_heads=RoIHeads(box_head=TwoMLPHead(8))),
        str(tmp_path / "thin.ckpt"),
    )
    cli.main(["convert", str(tmp_path / "thin.ckpt"), str(tmp_path / "theirs.pth")])
    said = capsys.readouterr().err
    assert "load it into a model of torchvision's with the same layers" in said
    assert "fasterrcnn_resnet50_fpn" not in said


def test_a_conversion_for_a_model_that_torchvision_does_not_have(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["convert", "tiny.ckpt", "theirs.pth", "--model", "ssd"])
    assert "error: --model ssd: there is fasterrcnn_resnet50_fpn," in capsys.readouterr().err
