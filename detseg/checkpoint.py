"""Checkpoint files: read without trusting them, and turned into what they hold.

A file is read with ``weights_only=True``: tensors and plain values, no code. The classes that it names are looked up
among those that are imported already. So a stranger's file can be wrong, but it cannot run anything.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from detseg import data as data_sets
from detseg.compat import FORMAT
from detseg.configurable import from_config
from detseg.errors import CheckpointError
from detseg.tasks import TASKS, Task
from detseg.weights import state_dict

for _name in data_sets.__all__:  # imported, so that checkpoints and the command line find them by name
    getattr(data_sets, _name)


def read(path: str | Path) -> dict[str, Any]:
    """What is in a file that ``torch.save`` wrote, or in the folder of a published network, on the CPU.

    Raises CheckpointError if it is missing, damaged, or holds more than tensors and plain values.
    """
    if not Path(path).exists():
        found = sorted(Path("runs").glob("*/*.ckpt"), key=lambda file: file.stat().st_mtime)
        newest = f"; the newest checkpoint here is {found[-1]}" if found else ""
        raise CheckpointError(f"{path}: no such file{newest}")
    return state_dict.read(path)


def load(path: str | Path) -> Task:
    """The task in a checkpoint, with its weights, classes, data and figures: ready to predict and to be evaluated.

    Raises CheckpointError as ``read`` does, and for a checkpoint that is not ours or of a class that is not imported.
    """
    content = read(path)
    about = content.get("detseg")
    if not isinstance(about, dict):
        raise CheckpointError(
            f"{path}: not a checkpoint of detseg; torchvision's detectors are turned into one by `detseg convert`"
        )
    if about.get("format") != FORMAT:
        raise CheckpointError(f"{path}: written by another version of detseg (format {about.get('format')})")
    try:
        model = from_config(about["model"])
        kind = next((kind for kind in TASKS if isinstance(model, kind)), None)
        if kind is None:
            raise TypeError(f"{type(model).__name__} is none of {', '.join(kind.__name__ for kind in TASKS)}")
        model.load_state_dict(state_dict.model_state_dict(content))
        task = TASKS[kind](model)
        model.set_metadata({"preprocessing": None, **about})
        if "preprocessing" not in about and about["data"]:  # as in 0.1.0, among the settings of the data
            model.preprocessing = from_config(about["data"]).preprocessing
        task.data_recipe, task.config = about["data"], about["config"]
        # null, in the card of a published network, is where there was nothing to measure.
        task.metric_values = {name: math.nan if value is None else value for name, value in about["metrics"].items()}
    except Exception as error:  # the file may give any constructor any value
        raise CheckpointError(f"{path}: cannot rebuild the network: {str(error).strip(chr(39))}") from error
    return task.eval()


def save(task: Task, path: str | Path) -> None:
    """Write what ``load`` reads. A training is resumed from the checkpoints that it wrote itself."""
    torch.save({"state_dict": task.state_dict(), "detseg": task.describe()}, path)
