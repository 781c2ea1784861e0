"""The metadata of a checkpoint: written by a task, and checked when its training is resumed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import WeightAveraging
from torchmetrics import Metric

from detseg.compat import FORMAT
from detseg.configurable import Configurable, from_config, to_config
from detseg.data.loading.samplers import global_seed
from detseg.errors import CheckpointError

if TYPE_CHECKING:
    from detseg.tasks.base import Task

log = logging.getLogger(__name__)

FACTOR = "optimizer.backbone_lr_factor"


def describe(task: Task) -> dict[str, Any]:
    """Describe a task in plain values, enough to evaluate it and to predict with it."""
    return {
        "format": FORMAT,
        "model": to_config(task.model),
        "data": task.data_recipe,
        **task.model.metadata(),
        "config": task.config,
        "metrics": task.metric_values,
        "metric_configs": [to_config(one) if isinstance(one, Configurable) else _name(one) for one in task.metrics],
        "run": task.run_settings,
    }


def run_settings(task: Task) -> dict[str, Any]:
    """Collect the settings, besides those of model and task, that a resumed training must share with the first one."""
    trainer = task.trainer
    averages = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    return {
        "batch_size": task.data.batch_size,
        "number of devices": trainer.world_size,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "seed": global_seed(),
        "precision": str(trainer.precision),
        # Those of the model in last.ckpt and best.ckpt: raw, or their exponential moving average.
        "weights": "ema" if averages else "raw",
        "digest of the training data": task.data.train_annotations.fingerprint(),
    }


def metrics(metadata: Mapping[str, Any]) -> list[Metric] | None:
    """Rebuild the metrics of a checkpoint; None if there are none. One that cannot be rebuilt is named in the log.

    Only metrics that are ``Configurable``, as those of detseg are, have their arguments in a checkpoint.
    """
    rebuilt = []
    for config in metadata.get("metric_configs", ()):
        try:
            metric = from_config(config)
            if isinstance(metric, str):
                raise KeyError(f"{metric}: its class does not inherit detseg.configurable.Configurable")
        except KeyError as error:
            log.info("metric left out: %s", error.args[0])
            continue
        if not isinstance(metric, Metric):
            raise TypeError(f"{type(metric).__name__} is not a metric")
        rebuilt.append(metric)
    return rebuilt or None


def resume(task: Task, metadata: Mapping[str, Any]) -> None:
    """Take the parameter groups of the checkpoint that a training continues from.

    Settings that a resumed training cannot change are named in a warning. Raises CheckpointError for other
    classes, and for other data or steps unless ``task.resume_anyway``.
    """
    classes = metadata.get("classes", list(task.class_names))
    if classes != list(task.class_names):
        raise CheckpointError(
            f"the checkpoint was trained on the classes {', '.join(classes)}, but the data has "
            f"{', '.join(task.class_names)}; resume a training on the data that it began with"
        )
    run = metadata.get("run", {})
    if task.data.tries_batch_sizes and "batch_size" in run:
        task.data.batch_size = task.run_settings["batch_size"] = run["batch_size"]
        task.data.tries_batch_sizes = False
    changed = [
        f"{name} is {task.run_settings[name]}, was {value}"
        for name, value in run.items()
        if task.run_settings.get(name, value) != value
    ]
    if changed and not task.resume_anyway:
        raise CheckpointError(
            f"the checkpoint is of another training: {'; '.join(changed)}. Restore these values, or set "
            "`resume_anyway=True` to continue with the new ones"
        )
    if changed:
        log.warning("this is no longer the same training: %s", "; ".join(changed))
    before, now = (_settings(config) for config in (metadata.get("config", {}), task.config))
    if before:
        before = {FACTOR: 1.0, **before}
        # By it the optimizer has one group or two.
        task.optimizer = replace(task.optimizer, backbone_lr_factor=before[FACTOR])
    for name in ("lr", FACTOR, "optimizer.momentum", "optimizer.weight_decay"):
        if name in before and name in now and before[name] != now[name]:
            log.warning(
                "%s: %s is not used: a resumed training keeps its own value, %s; start a new one to change it",
                *(name, now[name], before[name]),
            )


def _name(metric: Metric) -> str:
    return f"{type(metric).__module__}.{type(metric).__qualname__}"


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the task in a configuration, those of the optimizer under dotted names."""
    settings = dict(config.get("task", {}))
    return settings | {f"optimizer.{name}": value for name, value in settings.get("optimizer", {}).items()}
