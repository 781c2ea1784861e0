"""The metadata of a checkpoint: written by a task, and checked when its training is resumed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from detseg.compat import FORMAT
from detseg.configurable import to_config
from detseg.errors import CheckpointError

if TYPE_CHECKING:
    from detseg.tasks.base import Task

log = logging.getLogger(__name__)


def describe(task: Task) -> dict[str, Any]:
    """Describe a task in plain values, enough to evaluate it and to predict with it."""
    return {
        "format": FORMAT,
        "model": to_config(task.model),
        "data": task.data_recipe,
        **task.model.metadata(),
        "config": task.config,
        "metrics": task.metric_values,
    }


def resume(task: Task, metadata: Mapping[str, Any]) -> None:
    """Take the parameter groups of the checkpoint that a training continues from.

    Settings that a resumed training cannot change are named in a warning. Raises CheckpointError for other classes.
    """
    classes = metadata.get("classes", list(task.class_names))
    if classes != list(task.class_names):
        raise CheckpointError(
            f"the checkpoint was trained on the classes {', '.join(classes)}, but the data has "
            f"{', '.join(task.class_names)}; resume a training on the data that it began with"
        )
    before, now = (_settings(config) for config in (metadata.get("config", {}), task.config))
    if before:
        before = {"backbone_lr_factor": 1.0, **before}
        task.backbone_lr_factor = before["backbone_lr_factor"]  # by which the optimizer has one group or two
    for name in ("lr", "backbone_lr_factor", "optimizer.momentum", "optimizer.weight_decay"):
        if name in before and name in now and before[name] != now[name]:
            log.warning(
                "%s: %s is not used: a resumed training keeps its own value, %s; start a new one to change it",
                *(name, now[name], before[name]),
            )


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the task in a configuration, those of the optimizer under dotted names."""
    settings = dict(config.get("task", {}))
    return settings | {f"optimizer.{name}": value for name, value in settings.get("optimizer", {}).items()}
