"""The experiment loggers of `detseg train --logger`."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from detseg.errors import ConfigError

PROJECT = "detseg"


class TrackioLogger(Logger):
    """Log to trackio, whose functions are those of wandb."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._trackio, self._name, self._started = import_module("trackio"), name, False

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return ""

    def _start(self, config: dict[str, Any] | None = None) -> None:
        if not self._started:
            self._trackio.init(project=PROJECT, name=self._name, config=config)
        self._started = True

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        self._start(vars(params) if isinstance(params, Namespace) else params)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._start()
        self._trackio.log(metrics, step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._started:
            self._trackio.finish()


LOGGERS: dict[str, Callable[[Path], Logger]] = {
    # Without a name and a version, which would be folders inside the folder of the run.
    "tensorboard": lambda folder: TensorBoardLogger(folder, name="", version=""),
    "csv": lambda folder: CSVLogger(folder, name="", version=""),
    "wandb": lambda folder: WandbLogger(name=folder.name, project=PROJECT, save_dir=folder),
    "mlflow": lambda folder: MLFlowLogger(
        PROJECT, folder.name, os.environ.get("MLFLOW_TRACKING_URI"), save_dir=str(folder / "mlruns")
    ),
    "trackio": lambda folder: TrackioLogger(folder.name),
}
DEFAULT = "tensorboard,csv"


def make_loggers(names: str, folder: Path) -> list[Logger]:
    """Build the loggers of names joined by commas. Raises ConfigError for an unknown name or a missing package."""
    loggers = []
    for name in names.split(","):
        if name not in LOGGERS:
            raise ConfigError(f"--logger: {name} is none of {', '.join(LOGGERS)}, which commas may join")
        try:
            loggers.append(LOGGERS[name](folder))
        except ModuleNotFoundError as error:
            message = f"--logger {name}: its package is not installed; pip install 'detseg[{name}]'"
            raise ConfigError(message) from error
    return loggers
