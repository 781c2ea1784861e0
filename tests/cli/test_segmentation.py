"""The commands on the embedded shapes: an FCN is trained, measured, and says what pictures show."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close
from torchvision.models.segmentation import fcn_resnet50
from torchvision.transforms.functional import normalize

from detseg import checkpoint, cli
from detseg.errors import CheckpointError
from detseg.export.torchvision import check_dilated
from detseg.models import FCN, DilatedFCN
from detseg.modules.backbones import ResNet
from detseg.tasks import SegmentationTask
from tests.cli.conftest import entries

pytestmark = pytest.mark.usefixtures("quick_initialization")

TRAIN = [
    *("--config", "fcn_shapes.yaml", "--data.root", "shapes", "--data.train", "12", "--data.val", "5"),
    *("--data.num_workers", "0", "--trainer.accelerator", "cpu", "--trainer.check_val_every_n_epoch", "1"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two epochs, in runs/first."""
    folder = tmp_path_factory.mktemp("segmentation")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cli.main(["train", *TRAIN, "--trainer.max_epochs", "2", "--name", "first"])
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
    assert {"mean_IoU", "pixel_accuracy", "IoU/star", "boundary_IoU/ring", "loss", "loss_pixels"} <= set(figures)
    assert figures["pixel_accuracy"] > 0.3
    task = checkpoint.load(run / "best.ckpt")
    assert isinstance(task.model, FCN)
    assert task.class_names == ("background", "circle", "ring", "square", "star", "triangle")


def test_evaluation_gives_the_figures_of_the_training_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["evaluate", "--checkpoint", "runs/first/best.ckpt", "--metrics", "again.json", "--report", "page.html"])
    printed = capsys.readouterr().out
    assert "frequency weighted IoU" in printed
    assert "star" in printed
    ours, theirs = (json.loads(Path(name).read_text()) for name in ("again.json", "runs/first/metrics.json"))
    assert set(ours) == set(theirs)
    for name in ("mean_IoU", "pixel_accuracy", "mean_boundary_IoU", "IoU/ring"):
        assert ours[name] == theirs[name]
    report = json.loads(Path("page.json").read_text())
    (figure,) = report["verdict"]["figures"]
    assert figure["value"] == pytest.approx(ours["mean_IoU"], rel=1e-5)
    assert figure["low"] <= ours["mean_IoU"] <= figure["high"]
    assert {one["name"]: one["IoU"] for one in report["classes"]}["ring"] == pytest.approx(ours["IoU/ring"], rel=1e-4)
    assert Path("page.html").read_text().count("<figure") == 5
    assert Path("runs/first/report.html").exists()


def test_evaluation_by_several_views(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    views = ["--crop_size", "96", "--scales", "[0.75,1]", "--flip", "true"]
    cli.main(["evaluate", "--checkpoint", "runs/first/last.ckpt", *views, "--metrics", "views.json"])
    assert json.loads(Path("views.json").read_text())["pixel_accuracy"] > 0.3
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--checkpoint", "runs/first/last.ckpt", "--scales", "[0]"])
    assert "error: --scales [0.0]: must be one factor or several, above 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--checkpoint", "runs/first/last.ckpt", "--crop_size", "0"])
    assert "error: --crop_size 0: must be" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["predict", "shapes/coco/val", "--checkpoint", "runs/first/last.ckpt", "--scales", "[.nan]"])
    assert "error: --scales [nan]: must be" in capsys.readouterr().err


def test_prediction_writes_labels_overlays_and_shares(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos").mkdir()
    source = sorted(Path("shapes/coco/val").iterdir())[0]
    Image.open(source).resize((150, 90)).save("photos/one.jpg")
    Image.open(source).save("photos/one.png")
    cli.main(["predict", "photos", "--checkpoint", "runs/first/best.ckpt", "--out", "said", "--flip", "true"])
    printed = capsys.readouterr()
    found = entries("said")
    assert [one["labels"] for one in found] == ["labels/one.png", "labels/one-2.png"]
    for one in found:
        image, labels = Image.open(one["file"]), Image.open(Path("said", one["labels"]))
        assert labels.mode == "P"
        assert labels.size == image.size
        assert Image.open(Path("said", one["overlay"])).width == image.width
        counts = np.bincount(np.array(labels).ravel(), minlength=6) / np.array(labels).size
        shares = dict(zip(checkpoint.load("runs/first/best.ckpt").class_names, counts, strict=True))
        assert one["class_fractions"] == pytest.approx(
            {name: share for name, share in shares.items() if share}, abs=1e-6
        )
    background = np.mean([one["class_fractions"]["background"] for one in found])
    assert f"background {100 * background:5.1f} %" in printed.out
    assert "said/overlays/one.png: background" in printed.err


@pytest.mark.parametrize(
    ("images", "out"),
    [
        (["mine/labels"], "mine"),
        (["mine/labels/y.png"], "mine"),
        (["mine/elsewhere/x.png", "mine/overlays"], "mine"),  # x-2.png would be written before it is read
        (["mine/linked/x.png"], "mine/outside"),
    ],
)
def test_prediction_does_not_overwrite_images(
    folder: Path, images: list[str], out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "mine"
    files = ("labels/x.png", "labels/y.png", "elsewhere/x.png", "overlays/x.png", "overlays/x-2.png")
    for number, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (number, 0, 0)).save(root / name)
    (root / "linked").symlink_to(root / "labels")
    (root / "outside").mkdir()
    (root / "outside" / "labels").symlink_to(root / "labels")
    before = {path: path.read_bytes() for path in root.rglob("*.png")}
    with pytest.raises(SystemExit):
        cli.main(
            [
                "predict",
                *(str(tmp_path / name) for name in images),
                "--checkpoint",
                "runs/first/best.ckpt",
                f"--out={tmp_path / out}",
            ]
        )
    assert "would take the place of an image; name another folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in root.rglob("*.png")} == before
    assert not list(root.rglob("predictions.jsonl"))


def test_a_training_is_resumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", *TRAIN, "--trainer.max_epochs", "3", "--name", "first", "--resume", "last"])
    assert "epoch 2: mean_IoU" in capsys.readouterr().err


def test_a_finer_stage_goes_on_from_a_coarser_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = [*TRAIN, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    cli.main(["train", *more, "--name", "coarse", "--model.stride", "8"])
    line = ["--name", "finer", "--model.stride", "4", "--model.weights", "runs/coarse/last.ckpt"]
    capsys.readouterr()
    cli.main(["train", *more, *line])
    assert "runs/coarse/last.ckpt: weights loaded; new are scores.4.weight" in capsys.readouterr().err
    Path("runs/coarse/last.ckpt").rename("runs/coarse/gone.ckpt")
    assert checkpoint.load("runs/finer/last.ckpt").model.stride == 4  # needs the coarser one no more


def test_a_folder_of_ones_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        for name in ("images", "masks"):
            Path("own", name, split).mkdir(parents=True)
        Image.new("RGB", (64, 48)).save(f"own/images/{split}/a.jpg")
        Image.new("L", (64, 48), 1).save(f"own/masks/{split}/a.png")
    Path("own/classes.txt").write_text("ground\nthing\n")
    arguments = [
        "--config",
        "fcn_shapes.yaml",
        "--data",
        "own",
        "--data.num_workers",
        "0",
        "--trainer.accelerator",
        "cpu",
    ]
    cli.main(
        ["train", *arguments, "--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1", "--name", "own"]
    )
    assert checkpoint.load("runs/own/last.ckpt").class_names == ("ground", "thing")
    Image.new("L", (64, 48), 7).save("own/masks/train/a.png")
    with pytest.raises(SystemExit):
        cli.main(["train", *arguments, "--trainer.max_epochs", "1", "--name", "broken"])
    printed = capsys.readouterr().err
    assert "own/masks/train/a.png: the pixel at x 0, y 0 has the label 7" in printed
    assert "Traceback" not in printed


def test_torchvisions_weights_are_converted_both_ways(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    theirs = fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    torch.save(theirs.state_dict(), "fcn.pth")
    cli.main(["convert", "fcn.pth", "fcn.ckpt"])
    task = checkpoint.load("fcn.ckpt")
    assert isinstance(task.model, DilatedFCN)
    assert task.class_names[:2] == ("background", "aeroplane")
    capsys.readouterr()
    cli.main(["convert", "fcn.ckpt", "back.pth"])
    settings = "weights=None, weights_backbone=None, num_classes=21, aux_loss=True"
    printed = capsys.readouterr().err
    assert f"load it into fcn_resnet50({settings})" in printed
    assert "eps" not in printed
    back = torch.load("back.pth", weights_only=True)
    assert list(back) == list(theirs.state_dict())
    assert all(torch.equal(back[name], value) for name, value in theirs.state_dict().items())
    with pytest.raises(SystemExit):
        cli.main(["convert", "runs/first/best.ckpt", "x.pth"])
    assert "runs/first/best.ckpt: holds FCN" in capsys.readouterr().err


def dilated(
    name: Any = "resnet50", auxiliary_weight: float = 0.5, classes: int = 2, **settings: Any
) -> SegmentationTask:
    """A task as after a training."""
    backbone = ResNet(name, **{"stages": [4, 5], "norm": "batch", "output_stride": 8, **settings})
    task = SegmentationTask(DilatedFCN(backbone, classes, auxiliary_weight))
    task.model.class_names = tuple(f"class {number}" for number in range(classes))
    return task


@pytest.fixture(scope="module")
def theirs() -> dict[str, torch.Tensor]:
    """The state of torchvision's for two classes, with both heads; of zeros, which take no room in a file."""
    with torch.device("meta"):
        state = fcn_resnet50(weights=None, weights_backbone=None, num_classes=2, aux_loss=True).state_dict()
    return {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in state.items()}


def test_what_is_written_loads_as_it_is_said_and_computes_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the auxiliary head, and so without its map, and with another epsilon than torchvision's."""
    torch.manual_seed(0)
    task = dilated(auxiliary_weight=0, stages=[5], eps=1e-3)
    checkpoint.save(task, "ours.ckpt")
    cli.main(["convert", "ours.ckpt", "theirs.pth"])
    printed = capsys.readouterr().err
    settings = "weights=None, weights_backbone=None, num_classes=2, aux_loss=False"
    assert f"load it into fcn_resnet50({settings})" in printed
    assert "set eps of its batch norms to 0.001: torchvision's default is 1e-05" in printed
    model: Any = fcn_resnet50(weights=None, weights_backbone=None, num_classes=2, aux_loss=False)
    model.load_state_dict(torch.load("theirs.pth", weights_only=True), strict=True)
    for layer in model.backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-3
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = model.eval()(normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))["out"]
        assert_close(task.model.eval()(images), expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "resnet152"}, "is on resnet152"),
        ({"name": "resnet18", "output_stride": 32}, "is on resnet18, has output_stride 32"),
        ({"output_stride": 16}, "has output_stride 16"),
        ({"stages": [3, 5]}, "has stages [3, 5]"),
        ({"stages": [3, 4], "auxiliary_weight": 0}, "has stages [3, 4]"),
        ({"norm": "frozen"}, "has norm frozen"),
    ],
)
def test_what_torchvision_builds_otherwise_is_not_converted(settings: dict[str, Any], said: str) -> None:
    with torch.device("meta"):
        model = dilated(**settings).model
    said = re.escape(f"its DilatedFCN {said}; torchvision's fcn_resnet50 and fcn_resnet101 are on")
    with pytest.raises(CheckpointError, match=f"{said}.* with stages .4, 5., output_stride 8 and norm batch"):
        check_dilated(model)


def test_it_is_refused_before_a_file_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(dilated("resnet18", output_stride=32), "other.ckpt")
    with pytest.raises(SystemExit):
        cli.main(["convert", "other.ckpt", "other.pth"])
    assert "error: other.ckpt: its DilatedFCN is on resnet18" in capsys.readouterr().err
    assert not Path("other.pth").exists()


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        (lambda state: state, [], "--classes: the model has 2 classes, and VOC 21; name them all"),
        (
            lambda state: state,
            ["--classes", "a"],
            "--classes: the model has 2 classes, the names are 1; name them all",
        ),
        (
            lambda state: {name: value for name, value in state.items() if name != "aux_classifier.4.weight"},
            [],
            "not the weights of fcn_resnet50 for 2 classes: 1 missing (such as aux_classifier.4.weight)",
        ),
        (
            lambda state: {**state, "aux_classifier.4.weight": torch.zeros(21, 256, 1, 1)},
            [],
            "for 2 classes: 1 of another shape (such as aux_classifier.4.weight)",
        ),
        (lambda state: {**state, "head.x": torch.zeros(1)}, [], "head.x: not a tensor of an FCN on a dilated ResNet"),
        (
            lambda state: {name: value for name, value in state.items() if "layer3.5" not in name},
            [],
            "its backbone is none of resnet18",
        ),
        (lambda state: {"model": state, "epoch": 3}, [], "not a state dict: model is not a tensor"),
        (lambda state: {**state, "epoch": 3}, [], "not a state dict: epoch is not a tensor"),
        (lambda state: {1: torch.zeros(1)}, [], "not a state dict"),
        (lambda state: {}, [], "holds nothing, but not the weights of one of"),
    ],
)
def test_files_that_are_not_torchvisions_fcn(
    folder: Path,
    theirs: dict[str, torch.Tensor],
    change: Any,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(change(theirs), "wrong.pth")
    with pytest.raises(SystemExit):
        cli.main(["convert", "wrong.pth", "wrong.ckpt", *arguments])
    printed = capsys.readouterr().err
    assert said in printed
    assert "Traceback" not in printed
    assert not Path("wrong.ckpt").exists()


def test_a_file_without_the_auxiliary_head(folder: Path, theirs: dict[str, torch.Tensor]) -> None:
    torch.save({name: value for name, value in theirs.items() if not name.startswith("aux")}, "alone.pth")
    cli.main(["convert", "alone.pth", "alone.ckpt", "--classes", "ground, crack"])
    task = checkpoint.load("alone.ckpt")
    assert task.model.auxiliary is None
    assert task.class_names == ("ground", "crack")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model.stride", "64"], "stride 64: the backbone has maps of strides 4, 8, 16"),
        (["--model.weights", "no.ckpt"], "no.ckpt: no such file; train the coarser net first"),
        (["--data", "Shapes"], "Shapes"),
        (["--model.criterion", "mse"], "must be cross_entropy or focal or dice"),
    ],
)
def test_mistakes_are_named(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", *TRAIN, *arguments])
    printed = capsys.readouterr().err
    assert said in printed
    assert "Traceback" not in printed
