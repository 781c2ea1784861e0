"""The checkpoint that ``--resume`` continues from."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from detseg import cli
from detseg.cli.train import _find_checkpoint
from detseg.errors import CheckpointError
from detseg.weights import checkpoint_file

LAST = Path("runs/net/last.ckpt")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(path: Path, time: int) -> None:
    checkpoint_file.write({"optimizer_states": []}, path, path.with_name("previous.ckpt"))
    os.utime(path, (time, time))


def test_auto_starts_without_a_run_and_continues_the_latest() -> None:
    assert _find_checkpoint("net", "auto") is None
    with pytest.raises(CheckpointError, match="no run of net has left"):
        _find_checkpoint("net", "last")
    write(LAST, 1000)
    write(Path("runs/net-2/last.ckpt"), 900)
    write(Path("runs/network/last.ckpt"), 2000)
    assert _find_checkpoint("net", "auto") == _find_checkpoint("net", "last") == LAST


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(caplog: pytest.LogCaptureFixture) -> None:
    for time in (1000, 2000):
        write(LAST, time)
    LAST.write_bytes(LAST.read_bytes()[:-200])
    with caplog.at_level(logging.WARNING):
        assert _find_checkpoint("net", "last") == Path("runs/net/previous.ckpt")
    assert "last.ckpt: damaged" in caplog.text
    assert "continuing from the checkpoint before it, runs/net/previous.ckpt" in caplog.text
    LAST.with_name("previous.ckpt").unlink()
    with pytest.raises(CheckpointError, match="damaged"):
        _find_checkpoint("net", "last")


def test_a_moment_without_the_last_checkpoint() -> None:
    write(LAST, 1000)
    LAST.rename(LAST.with_name("previous.ckpt"))
    assert _find_checkpoint("net", "auto") == Path("runs/net/previous.ckpt")


def test_a_refused_training_leaves_its_folder_as_it_was(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny_run)
    before = Path("runs/tiny/config.yaml").read_text()
    with pytest.raises(SystemExit):
        cli.main(["train", "--config", "tiny.yaml", "--resume", "runs/tiny/last.ckpt", "--data.batch_size", "1"])
    shown = capsys.readouterr().err
    assert "the checkpoint is of another training: batch_size is 1, was 2" in shown
    assert "--resume_anyway True" in shown
    assert Path("runs/tiny/config.yaml").read_text() == before
