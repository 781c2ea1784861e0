"""The command line, ``detseg COMMAND ...``: each command is the ``run`` of the module of its name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import detseg
from detseg.cli import _help

COMMANDS = {
    "check": "check a data set for errors and write a repaired copy",
    "browse": "show training images with their labels, as the model sees them",
    "train": "train a detector, a segmenter or a classifier",
    "evaluate": "compute the metrics of a checkpoint on a data set",
    "report": "compare the evaluation reports of two or more runs",
    "predict": "detect objects in images, segment or classify them",
    "merge": "join the shards of a prediction, or write it in another format",
    "serve": "serve predictions over HTTP",
    "propose": "compute region proposals for R-CNN and Fast R-CNN",
    "truncate": "compress the head of a detector by a truncated SVD",
    "convert": "convert detectors and FCNs from torchvision and back",
    "convert-data": "write a data set in the format of COCO, VOC, YOLO or LabelMe",
    "publish": "export a checkpoint as safetensors with a model card",
    "export": "write a model for ONNX Runtime, OpenVINO or PyTorch, proved equal",
    "models": "list the backbones, their costs and their pretrained weights",
    "probe": "train linear classifiers on the features of each layer",
    "visualize": "show the inputs that excite the channels of a layer",
    "draw": "draw receptive fields, anchors, RoI pooling and other ideas of the models",
    "bias": "measure the shape and texture bias of classifiers",
    "embed": "map a data set by its features; find near-duplicates, outliers, doubtful labels",
    "heatmap": "map the scores of a classifier over an image",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; ``arguments`` are its name and its options, by default those of the program."""
    name, *options = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name == "--version":
        print(detseg.__version__)
    elif name in ("--help", "-h"):
        print("usage: detseg COMMAND [--help] ...\n")
        print("\n".join(f"  {command:<12} {text}" for command, text in COMMANDS.items()))
    elif name not in COMMANDS:
        print(f"error: {name}: no such command; choose from {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    elif name in _help.HELP and options in (["--help"], ["-h"]):
        print(_help.HELP[name])
        raise SystemExit(0)  # as argparse ends after the help of the others
    else:
        # Imported here: torch and lightning take seconds, which help must not.
        from detseg.cli import _console

        module = importlib.import_module(f"detseg.cli.{name.replace('-', '_')}")
        _console.run(name, module.run, options)
