"""Read checkpoint files without trusting them, and rebuild their tasks.

A file is read with ``weights_only=True``: tensors and plain values, no code. The classes that it names are looked up
among those that are imported already, so that a file cannot run anything.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from detseg import data as data_sets
from detseg.compat import FORMAT
from detseg.configurable import from_config
from detseg.errors import CheckpointError, reason
from detseg.tasks import TASKS, Task
from detseg.tasks.metadata import metrics
from detseg.weights import checkpoint_file, state_dict

log = logging.getLogger(__name__)

for _name in dir(data_sets):  # imported, so that checkpoints and the command line find them by name
    getattr(data_sets, _name)


def read(path: str | Path) -> dict[str, Any]:
    """Read a file that ``torch.save`` wrote, or the folder of a published model, on the CPU.

    Raises CheckpointError if it is missing, damaged, or holds more than tensors and plain values.
    """
    if not Path(path).exists():
        raise CheckpointError(f"{path}: no such file{_newest(Path(path).parent)}")
    return state_dict.read(path)


def _newest(folder: Path) -> str:
    """Return the end of an error message: the newest checkpoint of ``folder``, or of another run if it has none."""
    for files, place in ((folder.glob("*.ckpt"), f"in {folder}"), (Path("runs").glob("*/*.ckpt"), "of another run")):
        if checkpoint := max(files, key=lambda file: file.stat().st_mtime, default=None):
            return f"; the newest checkpoint {place} is {checkpoint}"
    return ""


def load(path: str | Path) -> Task:
    """Rebuild the task in a checkpoint with its weights, classes, data and metrics, in evaluation mode.

    Raises CheckpointError as ``read`` does, and for a checkpoint of another program or of a class that is not imported.
    """
    content = read(path)
    metadata = content.get("detseg")
    if not isinstance(metadata, dict):
        raise CheckpointError(
            f"{path}: not a checkpoint of detseg; convert a detector of torchvision's with `detseg convert`"
        )
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: written by another version of detseg (format {metadata.get('format')})")
    try:
        model = from_config(metadata["model"])
        base = next((base for base in TASKS if isinstance(model, base)), None)
        if base is None:
            raise TypeError(f"{type(model).__name__} is none of {', '.join(base.__name__ for base in TASKS)}")
        model.load_state_dict(state_dict.model_state_dict(content))
        task = TASKS[base](model, metrics=metrics(metadata))
        model.set_metadata({"preprocessing": None, **metadata})
        if "preprocessing" not in metadata and metadata["data"]:  # as in 0.1.0, among the settings of the data
            model.preprocessing = from_config(metadata["data"]).preprocessing
        task.data_recipe, task.config = metadata["data"], metadata["config"]
        # null in a model card stands for NaN, a metric without any sample.
        task.metric_values = {name: math.nan if value is None else value for name, value in metadata["metrics"].items()}
    except Exception as error:  # the file may give any constructor any value
        raise CheckpointError(f"{path}: cannot rebuild the model: {reason(error)}") from error
    if metadata.get("run", {}).get("weights") == "ema":
        log.info("%s: the weights are an exponential moving average", path)
    return task.eval()


def save(task: Task, path: str | Path) -> None:
    """Write a checkpoint for ``load``. It has no optimizer state, so that training cannot be resumed from it."""
    checkpoint_file.write({"state_dict": task.state_dict(), "detseg": task.describe()}, Path(path))
