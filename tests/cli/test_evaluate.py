"""`detseg evaluate` of a tiny training."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from detseg import checkpoint, cli
from detseg.metrics import VocAP
from tests.cli.conftest import BEST, COCO_NAMES, Refused
from tests.colours import IDS, write_colours


@pytest.fixture(autouse=True)
def here(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_run)


def test_evaluation_gives_the_figures_of_the_training_again(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_evaluation_on_other_data_matches_classes_by_name(capsys: pytest.CaptureFixture[str]) -> None:
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
def test_evaluation_imports_nothing_that_a_checkpoint_names(refused: Refused, data: object) -> None:
    Path("evil.py").write_text("open('made', 'w')\nclass Thing: pass\n")
    content = checkpoint.read(BEST)
    content["detseg"]["data"] = data
    torch.save(content, "bad.ckpt")
    assert "error: bad.ckpt: cannot rebuild its data" in refused("evaluate", "--checkpoint", "bad.ckpt")
    assert not Path("made").exists()
    assert "evil" not in sys.modules


LINES = [
    ("--module nope", "--module nope: No module named 'nope'"),
    ("--precision half", "--devices 1 --precision half: Precision 'half' is invalid"),
    ("--devices 0", "devices (command line): must be a whole number above 0, not 0"),
    ("--out colours", "--out colours: is a folder"),
    ("--metrics colours", "--metrics colours: is a folder"),
    ("--metrics file/metrics.json", "--metrics file/metrics.json: cannot be written"),
]


@pytest.mark.parametrize(("line", "said"), LINES, ids=[line for line, _ in LINES])
def test_a_wrong_line(refused: Refused, line: str, said: str) -> None:
    Path("file").write_text("")
    assert f"error: {said}" in refused("evaluate", "--checkpoint", BEST, *line.split())


def test_a_checkpoint_without_data_needs_some(refused: Refused) -> None:
    task = checkpoint.load(BEST)
    task.data_recipe = None
    checkpoint.save(task, "converted.ckpt")
    error = refused("evaluate", "--checkpoint", "converted.ckpt")
    assert "error: --data: must be set; converted.ckpt holds no data set of a training" in error


def test_a_result_may_be_called_yaml() -> None:
    cli.main(["evaluate", "--checkpoint", BEST, "--metrics", "metrics.yaml", "--out=results.yaml"])
    assert Path("metrics.yaml").exists()
    assert Path("results.yaml").exists()


def test_the_metrics_of_the_checkpoint_are_computed(refused: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    task = checkpoint.load(BEST)
    task.metrics = nn.ModuleList([VocAP(2010)])
    checkpoint.save(task, "voc.ckpt")
    cli.main(["evaluate", "--checkpoint", "voc.ckpt", "--metrics", "voc.json"])
    theirs = json.loads(Path("runs/tiny/metrics.json").read_text())
    names = [name for name in theirs if name.startswith("VOC10")]
    ours = json.loads(Path("voc.json").read_text())
    assert {name: ours[name] for name in names} == {name: theirs[name] for name in names}
    assert not {"AP", "VOC07_AP"} & ours.keys()
    said = refused("evaluate", "--checkpoint", "voc.ckpt", "--evaluator", "pycocotools")
    assert "--evaluator pycocotools: CocoAP is not a metric of the checkpoint" in said


def test_ensembles_views_and_tiles(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    files = "--checkpoint runs/tiny/best.ckpt runs/tiny/last.ckpt"
    line = f"{files} --scales [1,1.5] --flip true --tile 48 --overlap 0.5 --metrics views.json"
    cli.main(["evaluate", *line.split()])
    assert "validation losses" not in capsys.readouterr().out
    views = json.loads(Path("views.json").read_text())
    assert set(COCO_NAMES) <= set(views)
    assert "loss" not in views
    cli.main(["evaluate", *f"{files} --tile auto".split()])
    assert "no tiles: they would need" in caplog.text


def test_views_that_make_no_sense_are_refused(refused: Refused) -> None:
    assert "tile 8: must be a whole number of pixels" in refused("evaluate", "--checkpoint", BEST, "--tile", "8")
    for command in (["evaluate"], ["predict", "colours/val"]):
        error = refused(*command, "--checkpoint", BEST, "--overlap", "0.3")
        assert "--overlap 0.3 is the overlap of tiles: add --tile SIDE" in error
    error = refused("evaluate", "--checkpoint", BEST, "--crop_size", "32")
    assert "--crop_size is for segmentation" in error
    assert "--tile" in error
