"""The commands on the embedded shapes: an FCN is trained, measured, and says what pictures show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.segmentation import fcn_resnet50

from detseg import checkpoint, cli
from detseg.models import FCN, DilatedFCN

TRAIN = [
    *("--config", "fcn_shapes.yaml", "--data.root", "shapes", "--data.train", "12", "--data.val", "5"),
    *("--data.workers", "0", "--trainer.accelerator", "cpu", "--trainer.check_val_every_n_epoch", "1"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two epochs, in runs/first."""
    folder = tmp_path_factory.mktemp("segmentation")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cli.train([*TRAIN, "--trainer.max_epochs", "2", "--name", "first"])
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_a_run_leaves_everything_in_one_folder(folder: Path) -> None:
    run = folder / "runs" / "first"
    names = {path.name for path in run.iterdir()}
    assert {"best.ckpt", "last.ckpt", "metrics.json", "metrics.csv", "config.yaml", "pictures"} <= names
    assert len(list((run / "pictures").iterdir())) == 4
    figures = json.loads((run / "metrics.json").read_text())
    assert {"mean_IoU", "pixel_accuracy", "IoU/star", "boundary_IoU/ring", "loss", "pixels"} <= set(figures)
    assert figures["pixel_accuracy"] > 0.3
    task = checkpoint.load(run / "best.ckpt")
    assert isinstance(task.network, FCN)
    assert task.classes == ("background", "circle", "ring", "square", "star", "triangle")


def test_evaluation_gives_the_figures_of_the_training_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.evaluate(["--checkpoint", "runs/first/best.ckpt", "--metrics", "again.json"])
    printed = capsys.readouterr().out
    assert "frequency weighted IoU" in printed
    assert "star" in printed
    ours, theirs = (json.loads(Path(name).read_text()) for name in ("again.json", "runs/first/metrics.json"))
    assert set(ours) == set(theirs)
    for name in ("mean_IoU", "pixel_accuracy", "mean_boundary_IoU", "IoU/ring"):
        assert ours[name] == theirs[name]


def test_evaluation_by_several_views(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    views = ["--window", "96", "--scales", "[0.75,1]", "--flip", "true"]
    cli.evaluate(["--checkpoint", "runs/first/last.ckpt", *views, "--metrics", "views.json"])
    assert json.loads(Path("views.json").read_text())["pixel_accuracy"] > 0.3
    with pytest.raises(SystemExit):
        cli.evaluate(["--checkpoint", "runs/first/last.ckpt", "--scales", "[0]"])
    assert "error: scales [0.0]: must be one factor or several, each above 0" in capsys.readouterr().err


def test_prediction_writes_labels_overlays_and_shares(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos").mkdir()
    source = sorted(Path("shapes/coco/val").iterdir())[0]
    Image.open(source).resize((150, 90)).save("photos/one.jpg")
    Image.open(source).save("photos/one.png")
    cli.predict(["photos", "--checkpoint", "runs/first/best.ckpt", "--out", "said", "--flip", "true"])
    printed = capsys.readouterr()
    found = json.loads(Path("said/predictions.json").read_text())
    assert [one["labels"] for one in found] == ["labels/one.png", "labels/one-2.png"]
    for one in found:
        image, labels = Image.open(one["file"]), Image.open(Path("said", one["labels"]))
        assert labels.mode == "P"
        assert labels.size == image.size
        assert Image.open(Path("said", one["overlay"])).width == image.width
        counts = np.bincount(np.array(labels).ravel(), minlength=6) / np.array(labels).size
        shares = dict(zip(checkpoint.load("runs/first/best.ckpt").classes, counts, strict=True))
        assert one["shares"] == pytest.approx({name: share for name, share in shares.items() if share}, abs=1e-6)
    background = np.mean([one["shares"]["background"] for one in found])
    assert f"background {100 * background:5.1f} %" in printed.out
    assert "said/overlays/one.png: background" in printed.err


def test_prediction_does_not_overwrite_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine/labels").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save("mine/labels/x.png")
    with pytest.raises(SystemExit):
        cli.predict(["mine/labels", "--checkpoint", "runs/first/best.ckpt", "--out", "mine"])
    assert "would take the place of an image" in capsys.readouterr().err
    assert Image.open("mine/labels/x.png").mode == "RGB"


def test_a_training_is_resumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.train([*TRAIN, "--trainer.max_epochs", "3", "--name", "first", "--resume", "last"])
    assert "epoch 2: mean_IoU" in capsys.readouterr().err


def test_a_finer_stage_goes_on_from_a_coarser_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = [*TRAIN, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    cli.train([*more, "--name", "coarse", "--model.network.stride", "8"])
    line = ["--name", "finer", "--model.network.stride", "4", "--model.network.weights", "runs/coarse/last.ckpt"]
    capsys.readouterr()
    cli.train([*more, *line])
    assert "runs/coarse/last.ckpt: taken over; new are scores.4.weight" in capsys.readouterr().err
    Path("runs/coarse/last.ckpt").rename("runs/coarse/gone.ckpt")
    assert checkpoint.load("runs/finer/last.ckpt").network.stride == 4  # needs the coarser one no more


def test_a_folder_of_ones_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        for name in ("images", "masks"):
            Path("own", name, split).mkdir(parents=True)
        Image.new("RGB", (64, 48)).save(f"own/images/{split}/a.jpg")
        Image.new("L", (64, 48), 1).save(f"own/masks/{split}/a.png")
    Path("own/classes.txt").write_text("ground\nthing\n")
    arguments = ["--config", "fcn_shapes.yaml", "--data", "own", "--data.workers", "0", "--trainer.accelerator", "cpu"]
    cli.train([*arguments, "--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1", "--name", "own"])
    assert checkpoint.load("runs/own/last.ckpt").classes == ("ground", "thing")
    Image.new("L", (64, 48), 7).save("own/masks/train/a.png")
    with pytest.raises(SystemExit):
        cli.train([*arguments, "--trainer.max_epochs", "1", "--name", "broken"])
    printed = capsys.readouterr().err
    assert "own/masks/train/a.png: the pixel at x 0, y 0 has the label 7" in printed
    assert "Traceback" not in printed


def test_torchvisions_weights_are_converted_both_ways(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    theirs = fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    torch.save(theirs.state_dict(), "fcn.pth")
    cli.convert(["fcn.pth", "fcn.ckpt"])
    task = checkpoint.load("fcn.ckpt")
    assert isinstance(task.network, DilatedFCN)
    assert task.classes[:2] == ("background", "aeroplane")
    cli.convert(["fcn.ckpt", "back.pth"])
    back = torch.load("back.pth", weights_only=True)
    assert list(back) == list(theirs.state_dict())
    assert all(torch.equal(back[name], value) for name, value in theirs.state_dict().items())
    with pytest.raises(SystemExit):
        cli.convert(["runs/first/best.ckpt", "x.pth"])
    assert "runs/first/best.ckpt: holds FCN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model.network.stride", "64"], "stride 64: the backbone has maps of strides 4, 8, 16"),
        (["--model.network.weights", "no.ckpt"], "no.ckpt: no such file; train the coarser net first"),
        (["--data", "Shapes"], "Shapes"),
        (["--model.network.criterion", "mse"], "must be cross_entropy or focal or dice"),
    ],
)
def test_mistakes_are_named(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.train([*TRAIN, *arguments])
    printed = capsys.readouterr().err
    assert said in printed
    assert "Traceback" not in printed
