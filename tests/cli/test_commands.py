"""The commands, end to end in one process: a training on tiny images, and all that can be done with its checkpoint."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from detseg import checkpoint, cli
from detseg.cli.train import default_precision
from detseg.models import FasterRCNN
from detseg.modules import FPN
from detseg.modules.backbones import MobileNetV2
from detseg.tasks import DetectionTask
from tests.colours import IDS, write_colours

CONFIG = """\
model:
  class_path: FasterRCNN
  init_args:
    backbone:
      class_path: FPN
      init_args:
        channels: 16
        backbone: MobileNetV2
    rpn:
      post_nms_top_n: [20, 20]
    roi_heads:
      box_head:
        class_path: TwoMLPHead
        init_args:
          channels: 32
      sampler:
        batch_size_per_image: 16
        positive_fraction: 0.25
data: data/colours.yaml
trainer:
  max_epochs: 2
  accelerator: cpu
"""
DATA = """\
class_path: COCO
init_args:
  root: colours
  num_workers: 0
  transforms:
    - class_path: Resize
      init_args:
        size: 64
        max_size: 64
    - RandomHorizontalFlip
"""
SIZES = ("small", "medium", "large")
COCO_NAMES = ["AP", "AP50", "AP75", *(f"AP_{x}" for x in SIZES), *(f"AR_{x}" for x in (1, 10, 100, *SIZES))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and data, where one training has run."""
    folder = tmp_path_factory.mktemp("commands")
    write_colours(folder / "colours", train=5, val=3)
    (folder / "configs" / "data").mkdir(parents=True)
    (folder / "configs" / "tiny.yaml").write_text(CONFIG)
    (folder / "configs" / "data" / "colours.yaml").write_text(DATA)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cli.main(["train", "--config", "tiny.yaml"])  # a bare name, found in configs/
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_a_run_leaves_everything_in_one_folder(folder: Path) -> None:
    run = folder / "runs" / "tiny"
    names = {path.name for path in run.iterdir()}
    assert {"best.ckpt", "last.ckpt", "metrics.json", "metrics.csv", "config.yaml", "pictures"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    pictures = sorted((run / "pictures").iterdir())
    assert [path.name for path in pictures] == ["val0.jpg", "val1.jpg", "val2.jpg"]
    assert Image.open(pictures[0]).width > 2 * 64  # truth beside prediction
    figures = json.loads((run / "metrics.json").read_text())
    losses = ["loss", "rpn_objectness", "rpn_box", "box_class", "box_delta"]
    assert {*COCO_NAMES, *losses, "AP/red", "VOC07_AP", "VOC10_AP/blue", "images_per_second"} <= set(figures)
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["val/AP"] != "" for row in rows].count(True) == 2
    assert checkpoint.read(run / "last.ckpt")["detseg"]["config"]["trainer"]["max_epochs"] == 2


def test_evaluation_gives_the_figures_of_the_training_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(
        [
            "evaluate",
            "--checkpoint",
            "runs/tiny/best.ckpt",
            "--out",
            "new/results.json",
            "--metrics",
            "new/metrics.json",
        ]
    )
    printed = capsys.readouterr().out
    assert "VOC07" in printed
    assert "images per second" in printed
    ours, theirs = (json.loads(Path(name).read_text()) for name in ("new/metrics.json", "runs/tiny/metrics.json"))
    assert set(ours) == set(theirs)
    for name in (*COCO_NAMES, "AP/green", "VOC07_AP", "VOC10_AP"):
        assert ours[name] == theirs[name]
    for result in json.loads(Path("new/results.json").read_text()):
        assert set(result) == {"image_id", "category_id", "bbox", "score"}
        assert result["image_id"] in (100, 101, 102)
        assert result["category_id"] in IDS.values()


def test_evaluation_on_other_data_matches_classes_by_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Categories in another order, one of them unknown to the network, under ids of their own."""
    write_colours(Path("other"), train=1, val=3)
    for split in ("train", "val"):
        file = Path("other/annotations", f"instances_{split}.json")
        content = json.loads(file.read_text())
        new = {IDS["red"]: 9, IDS["green"]: 1, IDS["blue"]: 5}
        content["categories"] = [{"id": 1, "name": "green"}, {"id": 5, "name": "violet"}, {"id": 9, "name": "red"}]
        for annotation in content["annotations"]:
            annotation["category_id"] = new[annotation["category_id"]]
        file.write_text(json.dumps(content))
    line = "--checkpoint runs/tiny/last.ckpt --data.root other --metrics other.json --out results.json"
    cli.main(["evaluate", *line.split()])
    figures = json.loads(Path("other.json").read_text())
    assert figures["AP/blue"] is None  # nothing there is blue
    assert figures["AP/red"] is not None
    assert "AP/violet" not in figures
    assert {result["category_id"] for result in json.loads(Path("results.json").read_text())} <= {1, 9}
    Path("voc.yaml").write_text("class_path: VOC\ninit_args:\n  root: absent\n")
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--checkpoint", "runs/tiny/last.ckpt", "--data", "voc.yaml"])
    assert "error: absent" in capsys.readouterr().err


def test_prediction_draws_pictures_and_writes_objects(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large = Image.open("colours/val/val2.png").resize((192, 96))
    Path("photos").mkdir()
    large.save("photos/large.png")
    line = "photos colours/val/val0.png --checkpoint runs/tiny/best.ckpt --out drawn --threshold 0"
    cli.main(["predict", *line.split()])
    found = json.loads(Path("drawn/predictions.json").read_text())
    assert [one["file"] for one in found] == ["photos/large.png", "colours/val/val0.png"]
    assert Image.open("drawn/large.png").size == (192, 96)
    for one in found:
        assert len(one["classes"]) == len(one["scores"]) == len(one["boxes"]) > 0
        assert one["scores"] == sorted(one["scores"], reverse=True)
        assert set(one["classes"]) <= set(IDS)
    boxes = np.array(found[0]["boxes"])
    assert boxes.min() >= 0
    assert (boxes[:, 2:] <= (192.01, 96.01)).all()
    assert boxes[:, 2].max() > 64  # in pixels of the file, not of what the network sees


def test_prediction_goes_on_after_a_broken_image(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mixed").mkdir()
    Path("mixed/broken.jpg").write_bytes(b"no image")
    Image.open("colours/val/val1.png").save("mixed/whole.png")
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", "mixed/*", "--checkpoint", "runs/tiny/best.ckpt", "--out", "from_mixed"])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert "mixed/broken.jpg: not an image" in printed
    assert "error: 1 of 2 images could not be read" in printed
    assert [one["file"] for one in json.loads(Path("from_mixed/predictions.json").read_text())] == ["mixed/whole.png"]


def test_prediction_does_not_overwrite_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("colours/val/val0.png").read_bytes()
    with pytest.raises(SystemExit):
        cli.main(["predict", "colours/val/val0.png", "--checkpoint", "runs/tiny/best.ckpt", "--out", "colours/val"])
    assert "name another folder" in capsys.readouterr().err
    assert Path("colours/val/val0.png").read_bytes() == before


def test_images_are_given_without_their_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["predict", "--checkpoint", "runs/tiny/best.ckpt", "--images", "colours/val"])
    assert "error: images (command line): is given without its name" in capsys.readouterr().err


def test_prediction_without_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in ("absent.jpg", "absent/*.jpg", "configs"):
        with pytest.raises(SystemExit):
            cli.main(["predict", source, "--checkpoint", "runs/tiny/best.ckpt"])
        assert f"error: {source}: no" in capsys.readouterr().err


def test_resuming_goes_on_in_the_same_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", "--config", "tiny.yaml", "--name", "longer", "--trainer.max_epochs", "1"])
    first = checkpoint.read("runs/longer/last.ckpt")
    cli.main(["train", "--config", "tiny.yaml", "--name", "longer", "--resume", "last"])
    second = checkpoint.read("runs/longer/last.ckpt")
    assert (first["epoch"], first["global_step"], second["epoch"], second["global_step"]) == (0, 3, 1, 6)
    assert not Path("runs/longer-2").exists()
    assert Path("runs/longer/metrics-1.csv").exists()  # the log of the first part
    assert "epoch 1: AP" in capsys.readouterr().err


def test_an_interrupted_training_says_how_to_go_on(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("stops.py").write_text(
        "from lightning.pytorch import Callback\n\n\nclass Stop(Callback):\n"
        "    def on_train_epoch_start(self, trainer, module):\n"
        "        if trainer.current_epoch == 1:\n            raise KeyboardInterrupt\n"
    )
    monkeypatch.syspath_prepend(folder)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--config", "tiny.yaml", "--name", "stopped", "--trainer.callbacks+=stops.Stop"])
    signal.signal(signal.SIGINT, before)  # Lightning has switched it off
    assert ended.value.code
    assert "to continue, add --resume runs/stopped/last.ckpt" in capsys.readouterr().err


def test_another_run_does_not_overwrite_the_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "--config tiny.yaml --name twice --trainer.max_epochs 1 --trainer.limit_train_batches 1"
    cli.main(["train", *line.split()])
    assert "exists already" not in capsys.readouterr().err
    cli.main(["train", *line.split(), "--trainer.limit_val_batches", "0"])
    assert "runs/twice exists already, so this run writes to runs/twice-2;" in capsys.readouterr().err
    assert Path("runs/twice-2/last.ckpt").exists()


def test_settings_come_from_files_and_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_other_data_does_not_inherit_the_place(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--config", "tiny.yaml", "--data", "Shapes", "--print_config"])
    data = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]
    assert data["root"] == "datasets/shapes"
    assert data["transforms"][0]["init_args"]["size"] == 64  # how images are resized belongs to the recipe


def test_a_class_of_ones_own_drops_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.py").write_text(
        "from detseg.modules.backbones import MobileNetV2\n\n\nclass Mine(MobileNetV2):\n    pass\n"
    )
    line = "--config tiny.yaml --name own --model.backbone.backbone mine.Mine --trainer.max_epochs 1"
    monkeypatch.syspath_prepend(folder)
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


def test_the_settings_of_a_run_say_its_precision(folder: Path) -> None:
    assert yaml.safe_load(Path("runs/tiny/config.yaml").read_text())["trainer"]["precision"] == "32-true"


def test_help_and_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("train", "evaluate", "predict", "propose", "convert", "truncate", "models"):
        monkeypatch.setattr("sys.argv", ["detseg", command, "--help"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        printed = capsys.readouterr().out
        assert f"usage: detseg {command}" in printed
        assert ("--data NAME.yaml|CLASS|FOLDER" in printed) == (command in ("train", "evaluate", "propose"))
    for argument, said in (("--help", "evaluate"), ("--version", "0.")):
        monkeypatch.setattr("sys.argv", ["detseg", argument])
        cli.main()
        assert said in capsys.readouterr().out


def test_conversion_there_and_back(folder: Path) -> None:
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


def test_conversion_of_something_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.zeros(2)}, "foreign.pth")
    for arguments in (["foreign.pth", "x.ckpt"], ["theirs.pth", "x.ckpt", "--classes", "red"], ["absent.pth", "x"]):
        with pytest.raises(SystemExit):
            cli.main(["convert", *arguments])
        assert "error: " in capsys.readouterr().err
    assert not Path("x.ckpt").exists()


def test_two_processes_train_together(folder: Path) -> None:
    """`python tools/train.py --trainer.devices 2`, in a terminal's place a pipe: every line once, and calm."""
    project = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    line = "--config tiny.yaml --name pair --trainer.devices 2 --trainer.max_epochs 1"
    command = [sys.executable, str(project / "tools" / "train.py"), *line.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert "0.005 = 0.02 x 4 / 16: 4 images per step (batch 2 x 2 devices x 1 accumulated)" in done.stderr
    assert done.stderr.count("epoch 0: AP") == 1
    assert done.stdout.count("best checkpoint") == 1
    for noise in ("Warning", "stride", "Tip", "GPU available", "workers", "Traceback"):
        assert noise not in done.stderr
    assert checkpoint.read("runs/pair/last.ckpt")["global_step"] == 2  # 5 images, 4 a step
    assert not Path("runs/pair-2").exists()


BEST = "runs/tiny/best.ckpt"


def refused(command: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints before it ends with status 2."""
    with pytest.raises(SystemExit) as ended:
        cli.main([command, *arguments])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert "AP50" not in printed.out  # nothing was evaluated
    return printed.err


@pytest.mark.parametrize(
    "data",
    [
        {"class_path": "evil.Thing"},
        {"class": "COCO", "init_args": {"root": "colours", "transforms": {"class_path": "evil.Thing"}}},
        {
            "class": "COCO",
            "init_args": {"root": "colours", "transforms": {"class_path": "evil.Thing", "init_args": {}}},
        },
        {"class": "COCO", "init_args": {"root": "colours", "transforms": "evil.Thing"}},
        {"class": "COCO", "init_args": {"root": "colours", "transforms": ["evil.Thing"]}},
        {"class": "COCO", "init_args": {"root": {"class_path": "evil.Thing"}}},
        {"class": "evil.Thing", "init_args": {}},
        {"class": "COCO", "init_args": ["evil.Thing"]},
        {"class": "Resize", "init_args": {}},
        "evil.Thing",
        ["evil.Thing"],
        7,
    ],
)
def test_evaluation_imports_nothing_that_a_checkpoint_names(
    folder: Path, capsys: pytest.CaptureFixture[str], data: object
) -> None:
    Path("evil.py").write_text("open('made', 'w')\nclass Thing: pass\n")
    content = checkpoint.read(BEST)
    content["detseg"]["data"] = data
    torch.save(content, "bad.ckpt")
    assert "error: bad.ckpt: cannot rebuild its data" in refused("evaluate", capsys, "--checkpoint", "bad.ckpt")
    assert not Path("made").exists()
    assert "evil" not in sys.modules


LINES = [
    ("evaluate", "--module nope", "--module nope: No module named 'nope'"),
    ("evaluate", "--precision half", "--devices 1 --precision half: Precision 'half' is invalid"),
    ("evaluate", "--out colours", "--out colours: is a folder"),
    ("evaluate", "--metrics colours", "--metrics colours: is a folder"),
    ("evaluate", "--metrics file/metrics.json", "--metrics file/metrics.json: cannot be written"),
    ("predict", "--module nope colours/val", "--module nope: No module named 'nope'"),
    ("predict", "--device foo colours/val", "--device foo: there is no such device here; there is cpu"),
    ("predict", "--device cuda:99 colours/val", "--device cuda:99: there is no such device here; there is cpu"),
    ("predict", "--out file colours/val", "--out file: cannot be made a folder"),
    ("predict", "--threshold 7 colours/val", "--threshold 7: must be between 0 and 1"),
]


@pytest.mark.parametrize(("command", "line", "said"), LINES, ids=[f"{command} {line}" for command, line, _ in LINES])
def test_a_wrong_line(folder: Path, capsys: pytest.CaptureFixture[str], command: str, line: str, said: str) -> None:
    Path("file").write_text("")
    assert f"error: {said}" in refused(command, capsys, "--checkpoint", BEST, *line.split())


def test_prediction_of_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused("predict", capsys, "--checkpoint", BEST)
    assert "images must be set" in said
    assert "--config" not in said


def test_a_result_may_be_called_yaml(folder: Path) -> None:
    cli.main(["evaluate", "--checkpoint", BEST, "--metrics", "metrics.yaml", "--out=results.yaml"])
    assert Path("metrics.yaml").exists()
    assert Path("results.yaml").exists()


def test_every_picture_has_a_name_of_its_own(folder: Path) -> None:
    for number, place in enumerate(("a/s", "b/s", "c")):
        Path(place).mkdir(parents=True)
        Image.new("RGB", (64, 50 + number)).save(Path(place, "x.png"))
    Image.new("RGB", (64, 53)).save("c/x-2.png")
    Image.new("RGB", (64, 54)).save("noext", format="png")
    images = ["a/s/x.png", "b/s/x.png", str(Path("c/x.png").resolve()), "c/x-2.png", "noext"]
    cli.main(["predict", *images, "--checkpoint", BEST, "--out", "named"])
    found = json.loads(Path("named/predictions.json").read_text())
    assert [one["picture"] for one in found] == ["x.png", "x-2.png", "x-3.png", "x-2-2.png", "noext.png"]
    assert [Image.open(Path("named", one["picture"])).height for one in found] == [50, 51, 52, 53, 54]


def test_conversion_of_a_network_that_torchvision_does_not_have(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused("convert", capsys, BEST, "mobile.pth")
    assert f"error: {BEST}: holds FasterRCNN on FPN on MobileNetV2" in said
    assert not Path("mobile.pth").exists()
    assert "error: foreign.pth: holds weight, but not the weights of one of fasterrcnn" in refused(
        "convert", capsys, "foreign.pth", "x.ckpt"
    )


def test_conversion_makes_the_folder(folder: Path) -> None:
    cli.main(["convert", "ours.ckpt", "new/folder/back.pth"])
    assert "roi_heads.box_predictor.cls_score.weight" in checkpoint.read("new/folder/back.pth")


def test_a_failed_start_leaves_no_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (
        "--data.train_file nope.json",
        "--data.root absent",
        "--trainer.devices 0",
        "--task.schedule.warmup_steps x",
    )
    for line in (*lines, "--task.schedule.name cosine --trainer.max_epochs -1"):
        said = refused("train", capsys, "--config", "tiny.yaml", "--name", "failed", *line.split())
        assert "error: " in said
        assert not [*Path("runs").glob("failed*")]


def test_truncation_gives_a_checkpoint_with_a_smaller_head(folder: Path) -> None:
    cli.main(["truncate", BEST, "small/quick.ckpt", "--fc6", "8", "--fc7", "32"])
    quick, whole = (checkpoint.load(file).model.roi_heads.box_head for file in ("small/quick.ckpt", BEST))
    assert [tuple(layer.weight.shape) for layer in (*quick.fc6, *quick.fc7)] == [(8, 784), (32, 8), (32, 32), (32, 32)]
    best = torch.linalg.svd(whole.fc6.weight.detach().double())
    rank8 = (best.U[:, :8] * best.S[:8]) @ best.Vh[:8]
    torch.testing.assert_close((quick.fc6[1].weight @ quick.fc6[0].weight).double(), rank8, rtol=0, atol=1e-5)
    cli.main(["evaluate", "--checkpoint", "small/quick.ckpt", "--metrics", "quick.json"])
    assert json.loads(Path("quick.json").read_text()).keys() >= set(COCO_NAMES)


def test_truncation_says_what_cannot_be(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused("truncate", capsys, BEST, "x.ckpt", "--fc6", "33")
    assert f"error: {BEST}: fc6: rank 33 must be between 1 and 32" in said
    assert "quick.ckpt: fc6 has been truncated already" in refused("truncate", capsys, "small/quick.ckpt", "x.ckpt")
    assert not Path("x.ckpt").exists()


def test_truncation_of_a_head_that_the_network_made_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = DetectionTask(FasterRCNN(FPN(MobileNetV2(), channels=8), num_classes=3))
    checkpoint.save(task, "own_head.ckpt")
    cli.main(["truncate", "own_head.ckpt", "own_quick.ckpt", "--fc6", "16", "--fc7", "16"])
    assert checkpoint.load("own_quick.ckpt").model.roi_heads.box_head.fc6[0].out_features == 16
    said = refused("truncate", capsys, "own_head.ckpt", "x.ckpt", "--fc6", "300", "--fc7", "1024")
    assert "with --fc6 300 --fc7 1024 the head has" in said
    assert not Path("x.ckpt").exists()
