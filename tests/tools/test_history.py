"""The history of region-based detectors in its smallest form: that it runs, goes on, and writes what it says."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from detseg.data.modules.shapes_generator import write

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "history.py"


def test_three_systems_are_trained_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("detseg.proposals.selective_search.LONG_EDGE", 96)  # fewer regions
    write(Path("shapes"), train=2, val=1, seed=0)
    Path("configs").mkdir()
    for config in (ROOT / "configs").glob("history_*.yaml"):
        text = config.read_text().replace(" size: 320", " size: 96").replace("crop_size: 160", "crop_size: 64")
        (Path("configs") / config.name).write_text(text)
    small = ["--data.num_workers=0", "--model.backbone.weights=null", "--trainer.precision=32-true"]
    once = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    arguments = ["--data.root=shapes/voc", "--images=1", *small, *once]
    monkeypatch.setattr(sys, "argv", [str(TOOL), "--ablation", *arguments])
    runpy.run_path(str(TOOL), run_name="__main__")
    first = capsys.readouterr()
    figures = json.loads(Path("history.json").read_text())
    assert [one["system"] for one in figures] == ["R-CNN", "Fast R-CNN", "Faster R-CNN"]
    rcnn, fast, _ = figures
    assert rcnn["proposals"] == fast["proposals"]
    assert all(one[part] > 0 for one in figures for part in ("training", "proposals", "cnn", "head"))
    assert all(0 <= one["ap50"] <= 1 for one in figures)
    assert Image.open("history.png").size == (900, 520)
    assert sum(line.startswith(("R-CNN, svm", "R-CNN, softmax")) for line in first.out.splitlines()) == 4
    monkeypatch.setattr(sys, "argv", [str(TOOL), *arguments])
    runpy.run_path(str(TOOL), run_name="__main__")  # nothing is trained again
    again = capsys.readouterr()
    assert "epoch" not in again.err
    assert [one["training"] for one in json.loads(Path("history.json").read_text())] == [
        one["training"] for one in figures
    ]
    monkeypatch.setattr(sys, "argv", [str(TOOL), *arguments[:-1], "--trainer.accelerator=auto"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(TOOL), run_name="__main__")
    assert "history_rcnn was trained with --data.num_workers=0" in capsys.readouterr().err
