"""The degradation experiment in its smallest form: that it runs, goes on, and writes what it says."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

TOOL = Path(__file__).parents[2] / "tools" / "degradation.py"


def test_four_networks_are_trained_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["--data.train=10", "--data.val=5", "--data.num_workers=0"]
    once = ["--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1", "--trainer.accelerator=cpu"]
    monkeypatch.setattr(sys, "argv", [str(TOOL), *data, *once])
    runpy.run_path(str(TOOL), run_name="__main__")
    first = capsys.readouterr().out
    table = [line.split() for line in first.splitlines()[-5:-1]]
    rows = {name: [float(error) for error in errors] for name, *errors in table}
    assert set(rows) == {"plain18", "plain34", "resnet18", "resnet34"}
    for error, mean in rows.values():
        assert error % 10 == 0  # of ten pictures
        assert mean == error
    assert Image.open("degradation.png").size == (900, 520)
    runpy.run_path(str(TOOL), run_name="__main__")  # nothing is trained again
    again = capsys.readouterr()
    assert "epoch" not in again.err
    assert again.out.splitlines()[-6:] == first.splitlines()[-6:]
