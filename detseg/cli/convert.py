"""`detseg convert`: torchvision's detectors and FCNs to checkpoints, and back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import Namespace
from torch import Tensor

from detseg import checkpoint
from detseg.cli._parser import make_parser, parse
from detseg.configurable import to_config
from detseg.data import SegmentationDataModule
from detseg.errors import CheckpointError, ConfigError
from detseg.export.torchvision import EPSILON, export_torchvision
from detseg.folders import check_writable
from detseg.model_zoo import NAMES, config, describe, detector, segmenter
from detseg.models import DilatedFCN
from detseg.plural import counted
from detseg.tasks import DetectionTask, SegmentationTask, Task
from detseg.weights.state_dict import read_weights
from detseg.weights.torchvision import PUBLISHED, num_labels, published, structures

log = logging.getLogger(__name__)


def run(arguments: Sequence[str]) -> None:
    """Convert a state dict of torchvision's to a checkpoint, or a checkpoint to a state dict."""
    parser = make_parser("convert", "SOURCE TARGET [--classes NAME,NAME...] [--model NAME]")
    parser.add_argument("source", type=Path, help="State dict of a detector or an FCN of torchvision's, or checkpoint.")
    parser.add_argument("target", type=Path, help="File to write: the other one of the two.")
    parser.add_argument("--classes", type=str | None, help="Class names, without background for a detector.")
    parser.add_argument("--model", type=str | None, help="torchvision's name of the model, if the tensors fit several.")
    options = parse(parser, arguments)
    if options.model not in (None, *PUBLISHED):
        raise ConfigError(f"--model {options.model}: there is {', '.join(PUBLISHED)}")
    check_writable("TARGET", options.target)
    content = read_weights(options.source)
    try:
        if "detseg" in content:
            _export(checkpoint.load(options.source), options.target)
        else:
            _import(content, options)
    except CheckpointError as error:
        prefix = "" if str(error).startswith(f"{options.source}: ") else f"{options.source}: "
        raise CheckpointError(f"{prefix}{error}") from error


def _export(task: Task, target: Path) -> None:
    """Write the state dict for torchvision, and log the call that builds its model."""
    model = task.model
    export = export_torchvision(model)
    torch.save(export.state_dict, target)
    classes = counted(len(task.class_names), "class")
    if not isinstance(model, DilatedFCN):
        classes += f" and the background, {export.num_labels} labels"
    log.info("%s: state dict for torchvision, %s", target, classes)
    call = " or ".join(export.constructors) or "a model of torchvision's with the same layers, to be built by hand"
    log.info("load it into %s", call)
    if not isinstance(model, DilatedFCN):
        log.info("thresholds and numbers of boxes are torchvision's defaults unless its function gets others")
    if export.epsilons != {EPSILON}:
        eps = ", ".join(f"{value:g}" for value in export.epsilons)
        log.warning("set eps of its batch norms to %s: torchvision's default is %g", eps, EPSILON)


def _import(state: dict[str, Tensor], options: Namespace) -> None:
    """Write a checkpoint of the model that a state dict of torchvision's belongs to."""
    class_names = [name.strip() for name in options.classes.split(",")] if options.classes is not None else None
    task: Task
    if "classifier.4.weight" in state:  # of segmenters alone
        task = SegmentationTask(segmenter(state, class_names))
        task.data_recipe = to_config(SegmentationDataModule("datasets/VOCdevkit/VOC2012", "VOC"))
    else:
        published_as = published(options.source)
        name = options.model or published_as or next(iter(structures(state)), None)
        if name is None or not num_labels(state):
            raise CheckpointError(
                f"holds {next(iter(state), 'nothing')}, but not the weights of one of {', '.join(NAMES)}"
            )
        task = DetectionTask(detector(name, state, class_names, published_as))
        task.data_recipe = describe(config(name)["data"])
    checkpoint.save(task, options.target)
    log.info("%s: checkpoint with %d classes", options.target, len(task.class_names))
