"""Loggers by name."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from detseg.cli._loggers import DEFAULT, make_loggers
from detseg.errors import ConfigError


def test_names_are_joined_by_commas(tmp_path: Path) -> None:
    assert [type(logger) for logger in make_loggers(DEFAULT, tmp_path)] == [TensorBoardLogger, CSVLogger]
    assert [Path(logger.log_dir) for logger in make_loggers("csv", tmp_path)] == [tmp_path]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_missing_package_is_named(tmp_path: Path, name: str) -> None:
    if find_spec(name):
        assert make_loggers(name, tmp_path)
        return
    with pytest.raises(ConfigError, match=rf"--logger {name}: .* pip install 'detseg\[{name}\]'"):
        make_loggers(name, tmp_path)


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neptune is none of tensorboard, csv, wandb, mlflow, trackio"):
        make_loggers("csv,neptune", tmp_path)


def test_trackio_gets_settings_and_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    trackio = ModuleType("trackio")
    for name in ("init", "log", "finish"):
        setattr(trackio, name, lambda *values, _name=name, **named: calls.append((_name, *values, named)))
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    (logger,) = make_loggers("trackio", tmp_path / "run")
    logger.log_metrics({"loss": 0.5}, step=3)
    logger.log_metrics({"loss": 0.25}, step=4)
    logger.finalize("success")
    start = ("init", {"project": "detseg", "name": "run", "config": None})
    assert calls == [
        start,
        ("log", {"loss": 0.5}, {"step": 3}),
        ("log", {"loss": 0.25}, {"step": 4}),
        ("finish", {}),
    ]
