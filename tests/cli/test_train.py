"""`detseg train`, end to end: a training on tiny images, its settings, folders and interruptions."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from detseg import checkpoint, cli
from detseg.cli.train import default_precision
from tests.cli.conftest import COCO_NAMES, Refused


@pytest.fixture(autouse=True)
def here(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_run)


def test_a_run_leaves_everything_in_one_folder(tiny_run: Path) -> None:
    run = tiny_run / "runs" / "tiny"
    names = {path.name for path in run.iterdir()}
    assert {"best.ckpt", "last.ckpt", "metrics.json", "metrics.csv", "config.yaml", "pictures"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    pictures = sorted((run / "pictures").iterdir())
    assert [path.name for path in pictures] == ["val0.jpg", "val1.jpg", "val2.jpg"]
    assert Image.open(pictures[0]).width > 2 * 64  # truth beside prediction
    figures = json.loads((run / "metrics.json").read_text())
    losses = ["loss", "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"]
    assert {*COCO_NAMES, *losses, "AP/red", "VOC07_AP", "VOC10_AP/blue", "images_per_second"} <= set(figures)
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["val/AP"] != "" for row in rows].count(True) == 2
    assert checkpoint.read(run / "last.ckpt")["detseg"]["config"]["trainer"]["max_epochs"] == 2


def test_resuming_goes_on_in_the_same_folder(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", "--config", "tiny.yaml", "--name", "longer", "--trainer.max_epochs", "1"])
    first = checkpoint.read("runs/longer/last.ckpt")
    cli.main(["train", "--config", "tiny.yaml", "--name", "longer", "--resume", "last"])
    second = checkpoint.read("runs/longer/last.ckpt")
    assert (first["epoch"], first["global_step"], second["epoch"], second["global_step"]) == (0, 3, 1, 6)
    assert not Path("runs/longer-2").exists()
    assert Path("runs/longer/metrics-1.csv").exists()  # the log of the first part
    assert "epoch 1: AP" in capsys.readouterr().err


def test_an_interrupted_training_says_how_to_go_on(
    tiny_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("stops.py").write_text(
        "from lightning.pytorch import Callback\n\n\nclass Stop(Callback):\n"
        "    def on_train_epoch_start(self, trainer, module):\n"
        "        if trainer.current_epoch == 1:\n            raise KeyboardInterrupt\n"
    )
    monkeypatch.syspath_prepend(tiny_run)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--config", "tiny.yaml", "--name", "stopped", "--trainer.callbacks+=stops.Stop"])
    signal.signal(signal.SIGINT, before)  # Lightning has switched it off
    assert ended.value.code == 130
    assert "to continue, add --resume runs/stopped/last.ckpt" in capsys.readouterr().err


def test_another_run_does_not_overwrite_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    line = "--config tiny.yaml --name twice --trainer.max_epochs 1 --trainer.limit_train_batches 1"
    cli.main(["train", *line.split()])
    assert "exists already" not in capsys.readouterr().err
    cli.main(["train", *line.split(), "--trainer.limit_val_batches", "0"])
    assert "runs/twice exists already, so this run writes to runs/twice-2;" in capsys.readouterr().err
    assert Path("runs/twice-2/last.ckpt").exists()


def test_settings_come_from_files_and_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A second file overrides the first, the command line both, and the saved settings are the same settings."""
    Path("more.yaml").write_text("task:\n  lr: 0.5\n  optimizer:\n    weight_decay: 0.5\n")
    Path("my_data.yaml").write_text("class_path: COCO\ninit_args:\n  root: colours\n")
    line = "--config tiny.yaml --config more.yaml --task.lr 0.25 --data my_data.yaml --data.batch_size 3"
    line += " --model.backbone.backbone ResNet --model.backbone.backbone.name resnet18"
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", *line.split(), "--print_config"])
    assert not ended.value.code
    settings = yaml.safe_load(capsys.readouterr().out)
    assert (settings["task"]["lr"], settings["task"]["optimizer"]["weight_decay"]) == (0.25, 0.5)
    body = settings["model"]["init_args"]["backbone"]["init_args"]["backbone"]
    assert (body["class_path"].split(".")[-1], body["init_args"]["name"]) == ("ResNet", "resnet18")
    data = settings["data"]["init_args"]
    assert (data["root"], data["batch_size"], data["transforms"][0]["init_args"]["size"]) == ("colours", 3, 64)
    with pytest.raises(SystemExit):
        cli.main(["train", "--config", "runs/tiny/config.yaml", "--print_config"])
    again = yaml.safe_load(capsys.readouterr().out)
    saved = yaml.safe_load(Path("runs/tiny/config.yaml").read_text())
    assert {key: again[key] for key in ("model", "task", "data", "trainer")} == {
        key: saved[key] for key in ("model", "task", "data", "trainer")
    }


def test_other_data_does_not_inherit_the_place(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--config", "tiny.yaml", "--data", "Shapes", "--print_config"])
    data = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]
    assert data["root"] == "datasets/shapes"
    assert data["transforms"][0]["init_args"]["size"] == 64  # how images are resized belongs to the recipe


def test_a_class_of_ones_own_drops_in(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.py").write_text(
        "from detseg.modules.backbones import MobileNetV2\n\n\nclass Mine(MobileNetV2):\n    pass\n"
    )
    line = "--config tiny.yaml --name own --model.backbone.backbone mine.Mine --trainer.max_epochs 1"
    monkeypatch.syspath_prepend(tiny_run)
    cli.main(["train", *line.split()])
    cli.main(["evaluate", "--checkpoint", "runs/own/last.ckpt", "--module", "mine"])
    assert type(checkpoint.load("runs/own/last.ckpt").model.backbone.backbone).__name__ == "Mine"


@pytest.mark.parametrize(
    ("accelerator", "gpu", "supported", "expected"),
    [
        ("auto", True, True, "bf16-mixed"),
        ("gpu", True, True, "bf16-mixed"),
        ("gpu", True, False, "32-true"),
        ("cpu", True, True, "32-true"),
        ("auto", False, True, "32-true"),
    ],
)
def test_precision_is_that_in_which_a_gpu_is_quickest(monkeypatch, accelerator, gpu, supported, expected) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert default_precision(accelerator) == expected


def test_the_settings_of_a_run_say_its_precision() -> None:
    assert yaml.safe_load(Path("runs/tiny/config.yaml").read_text())["trainer"]["precision"] == "32-true"


def test_two_processes_train_together() -> None:
    """`python tools/train.py --trainer.devices 2`, in a terminal's place a pipe: every line once, and calm."""
    project = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    line = "--config tiny.yaml --name pair --trainer.devices 2 --trainer.max_epochs 1"
    command = [sys.executable, str(project / "tools" / "train.py"), *line.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert "0.005 = 0.02 x 4 / 16: 4 images per step (batch 2 x 2 devices x 1 accumulated)" in done.stderr
    assert done.stderr.count("epoch 0: AP") == 1
    assert done.stdout.count("best checkpoint") == 1
    for noise in ("Warning", "stride", "Tip", "GPU available", "many workers", "Traceback"):
        assert noise not in done.stderr
    assert checkpoint.read("runs/pair/last.ckpt")["global_step"] == 2  # 5 images, 4 a step
    assert not Path("runs/pair-2").exists()


def test_a_failed_start_leaves_no_folder(refused: Refused) -> None:
    lines = (
        "--data.train_file nope.json",
        "--data.root absent",
        "--trainer.devices 0",
        "--task.schedule.warmup_steps x",
    )
    for line in (*lines, "--task.schedule.name cosine --trainer.max_epochs -1"):
        said = refused("train", "--config", "tiny.yaml", "--name", "failed", *line.split())
        assert "error: " in said
        assert not [*Path("runs").glob("failed*")]
