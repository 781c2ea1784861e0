"""`detseg publish`: export a checkpoint as safetensors with a model card."""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision
from safetensors import SafetensorError

import detseg
from detseg import checkpoint
from detseg.cli._console import import_module
from detseg.cli._parser import make_parser, parse
from detseg.errors import ConfigError
from detseg.folders import check_writable
from detseg.weights import model_card

log = logging.getLogger(__name__)


def run(arguments: Sequence[str]) -> None:
    """Write a folder with the weights and the card of a checkpoint."""
    parser = make_parser("publish", "CHECKPOINT --out FOLDER")
    parser.add_argument("checkpoint", type=str, help="Written by `detseg train` or `detseg convert`.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for the weights and their card.")
    parser.add_argument("--module", type=str | None, help="A module with your own classes that the checkpoint needs.")
    options = parse(parser, arguments)
    if options.module:
        import_module(options.module)
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise ConfigError(f"--out {options.out}: exists already; name a new or an empty folder")
    check_writable("--out", options.out / model_card.WEIGHTS)
    task = checkpoint.load(options.checkpoint)
    metadata = task.describe()
    metadata["metrics"] = {name: None if math.isnan(value) else value for name, value in task.metric_values.items()}
    metadata["versions"] = {
        "detseg": detseg.__version__,
        "torch": str(torch.__version__),
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
    }
    try:
        model_card.write(options.out, task.state_dict(), metadata)
    except (OSError, SafetensorError) as error:  # such as a disk that is full
        raise ConfigError(f"--out {options.out}: cannot be written: {error}; name another folder") from error
    files = f"{options.out / model_card.WEIGHTS}, {options.out / model_card.CARD}"
    log.info("%s: a %s for %d classes", files, type(task.model).__name__, len(task.class_names))
