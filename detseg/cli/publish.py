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
from detseg.cli._exporting import parse_frame, validation_images
from detseg.cli._parser import make_parser, parse
from detseg.errors import ConfigError
from detseg.export.delivery import export
from detseg.folders import check_writable
from detseg.plural import counted
from detseg.weights import hub, model_card

log = logging.getLogger(__name__)


def run(arguments: Sequence[str]) -> None:
    """Write a folder with the weights and the card of a checkpoint."""
    parser = make_parser("publish", "CHECKPOINT --out FOLDER [--onnx true [--size 800x1344]] [--to hf://user/name]")
    parser.add_argument("checkpoint", type=str, help="Written by `detseg train` or `detseg convert`.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for the weights and their card.")
    parser.add_argument("--onnx", type=bool, default=False, help="Add an ONNX file and its proof, see `detseg export`.")
    parser.add_argument("--size", type=str | None, help="Of the ONNX file: height and width of the padded images.")
    parser.add_argument("--to", type=str | None, help="Repository on the Hugging Face Hub to upload the folder to.")
    parser.add_argument("--module", type=str | None, help="A module with your own classes that the checkpoint needs.")
    options = parse(parser, arguments)
    if options.module:
        import_module(options.module)
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise ConfigError(f"--out {options.out}: exists already; name a new or an empty folder")
    check_writable("--out", options.out / model_card.WEIGHTS)
    if options.to:
        hub.parse_address(options.to)
    task = checkpoint.load(options.checkpoint)
    frame = parse_frame(options.size, task.model) if options.onnx else None
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
    log.info("%s: a %s for %s", files, type(task.model).__name__, counted(len(task.class_names), "class"))
    if frame:
        export(task.model, options.out / "model.onnx", "onnx", frame, validation_images(task, frame))
    if options.to:
        log.info("uploaded to %s", hub.upload(options.out, options.to))
