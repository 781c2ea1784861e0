"""The command line: ``detseg train``, ``evaluate`` and the other ``COMMANDS``, each also a function."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import detseg
from detseg.cli import usage

# The module of each command and the line of help about it; importing them takes seconds, so only one is.
COMMANDS = {
    "check": ("checking", "look through a data set before it is learnt from, and repair it"),
    "browse": ("browsing", "show the pictures as a network sees them, with their labels drawn"),
    "train": ("training", "train a detector, a segmenter or a classifier as a configuration says"),
    "evaluate": ("evaluation", "measure a checkpoint on a data set"),
    "predict": ("prediction", "find objects in image files, label their pixels, or say what they show"),
    "propose": ("proposing", "find regions that may hold objects, for models that do not themselves"),
    "truncate": ("truncation", "make the head of a trained detector quicker"),
    "convert": ("conversion", "turn a detector of torchvision's into a checkpoint, or back"),
    "convert-data": ("data_conversion", "write a data set in the format of COCO, VOC or YOLO"),
    "publish": ("publishing", "write a checkpoint as safe weights and a card, for others"),
    "models": ("listing", "list the backbones, what they cost, and the weights there are"),
    "probe": ("probing", "measure how much of the classes each layer of a backbone knows"),
    "visualize": ("visualization", "show what the channels of a layer respond to"),
    "heatmap": ("heatmapping", "show where in a photograph a classifier sees what"),
}


def main() -> None:
    """The console command: ``detseg COMMAND ...``."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        _run(name, arguments)
    elif name == "--version":
        print(detseg.__version__)
    elif name in ("--help", "-h"):
        print("usage: detseg COMMAND [--help] ...\n")
        print("\n".join(f"  {command:<12} {text}" for command, (_, text) in COMMANDS.items()))
    else:
        print(f"error: {name}: there is no such command; there is {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)


def check(arguments: Sequence[str] | None = None) -> None:
    """Say what a data set is like and what is wrong with it."""
    _run("check", arguments)


def browse(arguments: Sequence[str] | None = None) -> None:
    """Show the pictures as a network sees them, with their labels drawn."""
    _run("browse", arguments)


def train(arguments: Sequence[str] | None = None) -> None:
    """Train a network. ``arguments`` are those of the command line, by default the program's own."""
    _run("train", arguments)


def evaluate(arguments: Sequence[str] | None = None) -> None:
    """Measure a checkpoint on a data set."""
    _run("evaluate", arguments)


def predict(arguments: Sequence[str] | None = None) -> None:
    """Find objects in image files."""
    _run("predict", arguments)


def propose(arguments: Sequence[str] | None = None) -> None:
    """Find regions of images that may hold objects, and keep them in files."""
    _run("propose", arguments)


def convert(arguments: Sequence[str] | None = None) -> None:
    """Turn a state dict of a detector of torchvision's into a checkpoint, or back."""
    _run("convert", arguments)


def convert_data(arguments: Sequence[str] | None = None) -> None:
    """Write a data set of boxes and masks in the format of COCO, VOC or YOLO."""
    _run("convert-data", arguments)


def truncate(arguments: Sequence[str] | None = None) -> None:
    """Make the head of a trained detector quicker by a truncated SVD."""
    _run("truncate", arguments)


def publish(arguments: Sequence[str] | None = None) -> None:
    """Write a checkpoint as safe weights and a card that says what they are."""
    _run("publish", arguments)


def models(arguments: Sequence[str] | None = None) -> None:
    """List the backbones, what they cost, and the weights there are."""
    _run("models", arguments)


def probe(arguments: Sequence[str] | None = None) -> None:
    """Measure how much of the classes each layer of a backbone knows."""
    _run("probe", arguments)


def visualize(arguments: Sequence[str] | None = None) -> None:
    """Show what the channels of a layer respond to."""
    _run("visualize", arguments)


def heatmap(arguments: Sequence[str] | None = None) -> None:
    """Show where in a photograph a classifier sees what."""
    _run("heatmap", arguments)


def _run(name: str, arguments: Sequence[str] | None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if name == "train" and list(arguments) in (["--help"], ["-h"]):
        print(usage.TRAIN_HELP)
        raise SystemExit(0)
    from detseg.cli import console

    module = importlib.import_module(f"detseg.cli.{COMMANDS[name][0]}")
    console.run(getattr(module, name.replace("-", "_")), arguments)
