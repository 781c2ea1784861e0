"""What the commands say about settings that are wrong: the key, the file and line, the nearest names; no traceback."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torchvision.models import WeightsEnum

from detseg import cli
from detseg.cli import _console
from detseg.cli._configs import find_configs
from detseg.cli._parser import instantiate, make_parser, parse
from detseg.errors import CheckpointError, ConfigError, DataError, DetsegError
from detseg.modules.backbones import Backbone
from tests.colours import write_colours

CONFIG = """\
model:
  class_path: FasterRCNN
  init_args:
    backbone:
      class_path: FPN
      init_args:
        channels: 16
        backbone: MobileNetV2
task:
  lr: 0.01
data:
  class_path: COCO
  init_args:
    root: colours
trainer:
  max_epochs: 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("errors")
    write_colours(folder / "colours", train=1, val=1)
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `detseg train` prints last before it ends with status 2 for settings, 1 for files."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", *arguments])
    assert ended.value.code == (1 if isinstance(ended.value.__cause__, DataError | CheckpointError) else 2)
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    last = [line for line in printed.splitlines() if line.startswith("error: ")]
    return printed[printed.index(last[-1]) :].strip()


# What is replaced in the file, by what, and what must be said about it, in this order.
FILES = [
    ("max_epochs", "max_epoch", ["trainer.max_epoch (my.yaml, line 16)", "did you mean trainer.max_epochs"]),
    ("  lr:", "  lrr:", ["task.lrr (my.yaml, line 10)", "did you mean task.lr"]),
    ("model:", "modell:", ["modell (my.yaml, line 1)", "did you mean model?"]),
    ("trainer:", "trainr:", ["trainr.max_epochs (my.yaml, line 16)", "trainer.max_epochs"]),
    ("        channels", "        chanels", ["model.backbone.chanels (my.yaml, line 7)", "channels"]),
    ("    backbone:\n", "    back:\n", ["model.back (my.yaml, line 4)", "did you mean model.backbone"]),
    ("    root:", "    rot:", ["data.rot (my.yaml, line 14)", "did you mean data.root"]),
    (
        "MobileNetV2",
        "MobileNetV9",
        ["model.backbone.backbone (my.yaml, line 8): MobileNetV9", "did you mean MobileNet"],
    ),
    ("class_path: FPN", "class_path: FPPN", ["model.backbone (my.yaml, line 4): FPPN", "did you mean FPN?"]),
    ("class_path: COCO", "class_path: VCO", ["data (my.yaml, line 11): VCO", "did you mean VOC?"]),
    ("class_path: Faster", "class_pth: Faster", ["model (my.yaml, line 1)", "class_path", "Detector"]),
    ("lr: 0.01", "lr: high", ["task.lr (my.yaml, line 10): must be a number, not high"]),
    (
        "max_epochs: 1",
        "max_epochs: one",
        ["trainer.max_epochs (my.yaml, line 16): must be a whole number or null, not one"],
    ),
    ("lr: 0.01", "optimizer: {name: sdg}", ["task.optimizer.name (my.yaml, line 10): must be sgd or adamw, not sdg"]),
    ("lr: 0.01", "schedule: {milestones: 3}", ["task.schedule.milestones (my.yaml, line 10): must be a list, not 3"]),
    ("        channels: 16", "        channels: [", ["my.yaml, line 9: not valid YAML"]),
    (
        "    backbone:\n",
        "    num_classes: 3\n    backbone:\n",
        ["model.num_classes (my.yaml, line 4): comes from"],
    ),
    ("lr: 0.01", "lr: 0.01\n  lr: 0.02", ["my.yaml, line 11: lr is set twice"]),
    ("root: colours", "root: absent", ["absent: no such folder", "prepare_coco.py", "--data data/shapes.yaml"]),
    ("root: colours", "root: colours\n    batch_size: 0", ["batch_size 0 must be at least 1"]),
    (
        "    backbone:\n",
        "    rpn:\n      anchor_generator:\n        sizes: [[8]]\n    backbone:\n",
        ["sizes of anchors has 1 lists, but the backbone 5 maps"],
    ),
    (
        "  class_path: FasterRCNN\n  init_args:\n",
        "  class_path: MaskRCNN\n  init_args:\n    rpnn: null\n",
        ["model.rpnn (my.yaml, line 4)", "did you mean model.rpn"],  # an argument of its base class
    ),
    ("max_epochs: 1", "accelerator: gpuu", ["gpuu", "cpu"]),
    ("max_epochs: 1", "devices: many", ["trainer: `devices`", "should be an int"]),
    ("MobileNetV2", "my.module.Net", ["No module named 'my'", "dotted path"]),
]


@pytest.mark.parametrize(("old", "new", "said"), FILES, ids=[new.strip().split("\n")[0] for _, new, _ in FILES])
def test_a_wrong_file(capsys: pytest.CaptureFixture[str], old: str, new: str, said: list[str]) -> None:
    assert CONFIG.count(old) == 1
    Path("my.yaml").write_text(CONFIG.replace(old, new))
    text = error(capsys, "--config", "my.yaml")
    for part in said:
        assert part in text
        text = text[text.index(part) + len(part) :]


LINES = [
    (
        "--trainer.max_epoch 3",
        "trainer.max_epoch (command line): there is no such setting; did you mean trainer.max_epochs",
    ),
    (
        "--trainer.max_epoch=3",
        "trainer.max_epoch (command line): there is no such setting; did you mean trainer.max_epochs",
    ),
    ("--taks.lr 3", "taks.lr (command line): there is no such setting; did you mean task.lr"),
    ("--resumee last", "resumee (command line): there is no such setting; did you mean resume or resume_anyway?"),
    ("--model.backbone.chanels 8", "model.backbone.chanels (command line): there is no such setting"),
    ("--model.backbone.backbone.frozn 8", "did you mean model.backbone.backbone.frozen"),
    ("--data.rot x", "data.rot (command line): there is no such setting; did you mean data.root"),
    ("--data.batch_size two", "data.batch_size (command line): must be a whole number or auto or null, not two"),
    ("--data COC", "data (command line): COC is no folder or file here, nor a class that fits; did you mean COCO"),
    ("--data no/such/folder", "data (command line): no/such/folder: no such file or folder"),
    ("--data data/coc.yaml", "data/coc.yaml: no such file, neither here nor in configs/; did you mean data/coco.yaml"),
    ("--data VOC", "data (command line): root must be set"),
    ("--model ResNet", "model (command line): ResNet is neither"),
    ("--task.lr", "task.lr (command line): its value is missing"),
    ("--model.num_classes 3", "model.num_classes (command line): comes from the data"),
    ("--trainer.callbacks+=EarlyStoping", "trainer.callbacks (command line): EarlyStoping is neither"),
    ("--resume last", "no run of other has left a last.ckpt in runs/"),
    ("--resume absent.ckpt", "absent.ckpt: no such file"),
    ("stray", "stray: belongs to no option"),
    ("other.yaml", "other.yaml: belongs to no option; write --config other.yaml"),
    ("--model.backbone.backbone.weights absent.pth", "absent.pth: neither a file nor weights of mobilenet_v2"),
]


@pytest.mark.parametrize(("line", "said"), LINES, ids=[line for line, _ in LINES])
def test_a_wrong_line(capsys: pytest.CaptureFixture[str], line: str, said: str) -> None:
    Path("other.yaml").write_text(CONFIG)
    assert said in error(capsys, "--config", "other.yaml", *line.split(" "))


def test_a_key_in_a_nested_file_is_found_there(capsys: pytest.CaptureFixture[str]) -> None:
    Path("part").mkdir()
    Path("part/data.yaml").write_text("class_path: COCO\ninit_args:\n  rooot: colours\n")
    Path("my.yaml").write_text(CONFIG.split("data:")[0] + "data: part/data.yaml\n")
    assert "data.rooot (part/data.yaml, line 3)" in error(capsys, "--config", "my.yaml")


def test_a_missing_nested_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my.yaml").write_text(CONFIG.split("data:")[0] + "data: part/absent.yaml\n")
    assert error(capsys, "--config", "my.yaml") == "error: data (my.yaml, line 11): there is no file part/absent.yaml"


def test_a_missing_config_answers_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    said = error(capsys, "--config", "faster_rcnn_r5.yaml")
    assert "faster_rcnn_r5.yaml: no such file" in said
    assert "did you mean faster_rcnn_r50.yaml" in said


def test_no_config_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert error(capsys) == "error: data, model must be set; --config names a file that does"


def test_unknown_commands(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["detseg", "trian"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "trian: no such command; choose from check, browse, train" in capsys.readouterr().err


def test_a_killed_worker_is_explained_wherever_the_program_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Its error comes by a signal, in the midst of a step."""

    def command(arguments: object) -> None:
        raise RuntimeError(f"DataLoader worker (pid 7) {arguments}")

    with pytest.raises(SystemExit) as ended:
        _console.run("train", command, "is killed by signal: Killed. ")
    assert ended.value.code == 1
    assert "error: a loader process was killed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "error", "status", "message"),
    [
        ("train", ConfigError("lr: -1 is below 0"), 2, "error: --task.lr: -1 is below 0"),
        ("train", DataError("a.json: is empty"), 1, "error: a.json: is empty"),
        ("train", DetsegError("the loss is not finite; lower `lr`"), 1, "lower `--task.lr`"),
        ("check", DataError("a: no such folder"), 2, "error: a: no such folder"),  # 1 stands for warnings
        ("train", OSError(28, "No space left on device", "a.ckpt"), 1, "error: a.ckpt: No space left on device"),
        ("train", torch.OutOfMemoryError("tried to allocate"), 1, "lower `--data.batch_size`"),
        ("train", KeyboardInterrupt(), 130, ""),
        (
            "predict",
            DataError("\x1b[2J\r\udce9 é 写\u3000\u202f.jpg: no image"),
            1,
            "error: \\x1b[2J\\r\\udce9 é 写\u3000\u202f.jpg: no image",
        ),
    ],
)
def test_the_exit_status(
    capsys: pytest.CaptureFixture[str], command: str, error: BaseException, status: int, message: str
) -> None:
    def fails(_: object) -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        _console.run(command, fails, [])
    assert ended.value.code == status
    assert message in capsys.readouterr().err


def test_other_errors_of_the_program_stay_as_they_are() -> None:
    def command(_: object) -> None:
        raise RuntimeError("out of tune")

    with pytest.raises(RuntimeError, match="out of tune"):
        _console.run("train", command, [])


@pytest.mark.parametrize(
    ("content", "said"), [(b"data: caf\xe9\n", "not a text in UTF-8"), (b"data: \a\n", "not valid YAML")]
)
def test_a_file_of_settings_that_is_no_text(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "my.yaml"
    file.write_bytes(content)
    with pytest.raises(DetsegError, match=f"^{file}: {said}"):
        find_configs(["--config", str(file)])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("serve x.ckpt --threshold 7", "threshold (command line): must be a number from 0 to 1 or null, not 7"),
        ("merge . --threshold 7", "threshold (command line): must be a number from 0 to 1, not 7"),
        ("serve x.ckpt --port 0", "port (command line): must be a whole number above 0, not 0"),
        ("serve x.ckpt --port 99999", "--port 99999: must be from 1024 to 65535"),
        (
            "serve x.ckpt --host localhost",
            "host (command line): must be 127.0.0.1 or 0.0.0.0 or ::, not localhost",
        ),
        ("serve x.ckpt --batch_size many", "batch_size (command line): must be a whole number above 0, not many"),
        ("serve x.ckpt --timeout -1", "timeout (command line): must be a number above 0, not -1"),
    ],
)
def test_numbers_out_of_range_are_named(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(line.split())
    assert capsys.readouterr().err.strip() == f"error: {message}"


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        port = used.getsockname()[1]
        with pytest.raises(SystemExit, match="2"):
            cli.main(["serve", "x.ckpt", "--port", str(port)])
    assert capsys.readouterr().err.strip() == f"error: --port {port}: Address already in use; choose another one"


def test_commands_run_where_output_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as Python leaves it
    seen: list[Any] = []
    _console.run("models", lambda _: seen.append(sys.stdout.isatty()), [])
    assert seen == [False]


def test_weights_that_cannot_be_fetched_name_their_option(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", fail)
    parser = make_parser("train", "")
    parser.add_subclass_arguments(Backbone, "backbone")
    options = parse(
        parser, ["--backbone=FPN", "--backbone.backbone=ResNet", "--backbone.backbone.weights=IMAGENET1K_V1"]
    )
    with pytest.raises(
        CheckpointError, match=r"no route; pass a local file instead, as `--backbone.backbone.weights FILE`"
    ):
        instantiate(parser, options)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--report --kind ap", "report (command line): its value is missing; give a path: HTML file of the report"),
        ("--kind", "kind (command line): its value is missing; give best-f1 or cheapest or a whole number"),
        ("--kind 1", "folder must be set\nusage: detseg draw FOLDER [--kind KIND]"),
    ],
)
def test_missing_values_are_described(line: str, message: str) -> None:
    parser = make_parser("draw", "FOLDER [--kind KIND]")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--report", type=Path | None, help="HTML file of the report. Its values go elsewhere.")
    parser.add_argument("--kind", type=Literal["best-f1", "cheapest"] | int | None)
    with pytest.raises(ConfigError) as raised:
        parse(parser, line.split())
    assert str(raised.value) == message
