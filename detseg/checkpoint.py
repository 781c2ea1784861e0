"""Read checkpoint files without trusting them, and rebuild their models and tasks.

A file is read with ``weights_only=True``: tensors and plain values, no code. The classes that it names are looked up
among those that are imported already, so that a file cannot run anything.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from detseg import data as data_sets
from detseg.compat import FORMAT
from detseg.configurable import from_config
from detseg.errors import CheckpointError, reason
from detseg.models import Classifier, Detector, Segmenter
from detseg.models.model import Model
from detseg.weights import checkpoint_file, state_dict

if TYPE_CHECKING:
    from detseg.tasks import Task

log = logging.getLogger(__name__)

KINDS = (Detector, Classifier, Segmenter)


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


def load_model(path: str | Path) -> Model:
    """Rebuild the model in a checkpoint with its weights, classes and preprocessing, in evaluation mode.

    Raises CheckpointError as ``read`` does, and for a checkpoint of another program or of a class that is not imported.
    """
    return _load(path)[0]


def load(path: str | Path) -> Task:
    """Rebuild the task in a checkpoint: its model with data and metrics. Raises CheckpointError as ``load_model``."""
    from detseg.tasks import TASKS  # imports Lightning, which takes seconds, and no prediction needs it
    from detseg.tasks.metadata import metrics

    model, metadata = _load(path)
    with _explaining(path):
        task = next(cls for kind, cls in TASKS.items() if isinstance(model, kind))(model, metrics=metrics(metadata))
        task.data_recipe, task.config = metadata["data"], metadata["config"]
        # null in a model card stands for NaN, a metric without any sample.
        task.metric_values = {name: math.nan if value is None else value for name, value in metadata["metrics"].items()}
    return task.eval()


def _load(path: str | Path) -> tuple[Model, dict[str, Any]]:
    """Return the model and the metadata of a checkpoint."""
    content = read(path)
    metadata = content.get("detseg")
    if not isinstance(metadata, dict):
        raise CheckpointError(
            f"{path}: not a checkpoint of detseg; convert a detector of torchvision's with `detseg convert`"
        )
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: written by another version of detseg (format {metadata.get('format')})")
    with _explaining(path):
        model = from_config(metadata["model"])
        if not isinstance(model, KINDS):
            raise TypeError(f"{type(model).__name__} is none of {', '.join(kind.__name__ for kind in KINDS)}")
        model.load_state_dict(state_dict.model_state_dict(content))
        model.set_metadata({"preprocessing": None, **metadata})
        if "preprocessing" not in metadata and metadata["data"]:  # as in 0.1.0, among the settings of the data
            data_sets.import_all()
            model.preprocessing = from_config(metadata["data"]).preprocessing
    if metadata.get("run", {}).get("weights") == "ema":
        log.info("%s: the weights are an exponential moving average", path)
    return model.to(memory_format=torch.channels_last).eval(), metadata


@contextmanager
def _explaining(path: str | Path) -> Iterator[None]:
    """Raise CheckpointError for any error: the file may give any constructor any value."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(f"{path}: cannot rebuild the model: {reason(error)}") from error


def save(task: Task, path: str | Path) -> None:
    """Write a checkpoint for ``load``. It has no optimizer state, so that training cannot be resumed from it."""
    checkpoint_file.write({"state_dict": task.state_dict(), "detseg": task.describe()}, Path(path))
