"""`detseg convert`: torchvision's detectors to checkpoints, and back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import Namespace
from torch import Tensor
from torchvision.models import get_model

from detseg import checkpoint, model_zoo
from detseg.cli._console import check_writable
from detseg.cli._parser import make_parser, parse
from detseg.configurable import to_config
from detseg.data import VOCSegmentation
from detseg.errors import CheckpointError, ConfigError
from detseg.model_zoo import FCNS, RESNETS, SCORES
from detseg.models import DilatedFCN, FasterRCNN
from detseg.modules import FPN, RoIAlign
from detseg.modules.backbones import MobileNetV3, ResNet
from detseg.modules.backbones.resnet import PLAIN
from detseg.ops.anchors import base_anchors
from detseg.tasks import DetectionTask, SegmentationTask, Task
from detseg.weights.state_dict import COUNT, read_weights
from detseg.weights.torchvision import (
    COCO,
    PUBLISHED,
    published,
    segmenter_to_torchvision,
    structures,
    to_torchvision,
)

log = logging.getLogger(__name__)

EPSILON = 1e-5  # of batch norm in every detector that torchvision builds without published weights


def run(arguments: Sequence[str]) -> None:
    """Turn the file that ``arguments`` name into the other kind."""
    parser = make_parser("convert", "SOURCE TARGET [--classes NAME,NAME...] [--model NAME]")
    parser.add_argument("source", type=Path, help="State dict of a detector or an FCN of torchvision's, or checkpoint.")
    parser.add_argument("target", type=Path, help="File to write: the other one of the two.")
    parser.add_argument(
        "--classes", type=str | None, help="Names, of a detector without background; by default COCO's or VOC's."
    )
    parser.add_argument("--model", type=str | None, help="torchvision's name of it, where the tensors leave it open.")
    options = parse(parser, arguments)
    if options.model not in (None, *PUBLISHED):
        raise ConfigError(f"--model {options.model}: there is {', '.join(PUBLISHED)}")
    check_writable("TARGET", options.target)
    content = read_weights(options.source)
    if "detseg" in content:
        task: Task = checkpoint.load(options.source)
        if not isinstance(task.model, (FasterRCNN, DilatedFCN)):
            raise CheckpointError(
                f"{options.source}: holds {type(task.model).__name__}, which is not turned into torchvision's"
            )
        state = _for_torchvision(task, options.source)
        torch.save(state, options.target)
        _say(task, state, options.target)
        return
    try:
        task = _from_torchvision(content, options)
    except CheckpointError as error:
        raise CheckpointError(f"{options.source}: {error}") from error
    checkpoint.save(task, options.target)
    log.info("%s: checkpoint with %d classes", options.target, len(task.class_names))


def _from_torchvision(state: dict[str, Tensor], options: Namespace) -> Task:
    """The task of a state dict of torchvision's."""
    class_names = tuple(name.strip() for name in options.classes.split(",")) if options.classes else None
    task: Task
    try:
        if "classifier.4.weight" in state:  # as no detector has it
            task = SegmentationTask(model_zoo.segmenter(state, class_names))
            task.data_recipe = to_config(VOCSegmentation(root="datasets/VOCdevkit/VOC2012"))
            return task
        known = published(options.source)
        name = options.model or known or next(iter(structures(state)), None)
        if name is None:
            held, names = next(iter(state), "nothing"), ", ".join(model_zoo.NAMES)
            raise CheckpointError(f"holds {held}, but not the weights of one of {names}")
        task = DetectionTask(model_zoo.detector(name, state, class_names, known))
        task.data_recipe = model_zoo.describe(model_zoo.config(name)["data"])
        return task
    except ConfigError as error:
        raise ConfigError(str(error).replace("class_names:", "--classes:")) from error


def _for_torchvision(task: Task, source: Path) -> dict[str, Tensor]:
    """The state dict of a task's network under torchvision's names. Raises CheckpointError if torchvision has none."""
    model = task.model
    if isinstance(model, DilatedFCN):
        check_dilated(model, source)
        return segmenter_to_torchvision(model.state_dict())
    backbone = getattr(model, "backbone", None)
    body = getattr(backbone, "backbone", None)
    name = getattr(body, "name", "")
    resnet = isinstance(body, ResNet) and body.stages == [2, 3, 4, 5] and name not in PLAIN
    mobile = isinstance(body, MobileNetV3) and body.stages == [5] and len(body.strides) == 2
    if not isinstance(backbone, FPN) or not (resnet or (mobile and name == "mobilenet_v3_large")):
        parts = " on ".join(type(part).__name__ for part in (model, backbone, body) if part is not None)
        parts += f" ({name})" if name else ""
        raise CheckpointError(
            f"{source}: holds {parts}; torchvision's detectors are on an FPN on {', '.join(RESNETS.values())} with "
            "stages 2 to 5, or on mobilenet_v3_large with stages [5] and return_stage_start"
        )
    if not isinstance(model.roi_heads.pooler, RoIAlign):
        pooler = type(model.roi_heads.pooler).__name__
        raise CheckpointError(f"{source}: has {pooler}, and torchvision's detectors RoIAlign")
    sizes = [[32, 64, 128, 256, 512]] * 3 if mobile else [[32], [64], [128], [256], [512]]
    ours = model.rpn.anchor_generator.base_anchors
    published = [base_anchors(of_map, (0.5, 1.0, 2.0)) for of_map in sizes]
    if len(ours) != len(published) or not all(map(torch.equal, ours, published)):
        raise CheckpointError(
            f"{source}: has anchors of its own, which a state dict does not say; torchvision's detectors have sizes "
            f"{sizes} and ratios 0.5, 1 and 2"
        )
    try:
        return to_torchvision(model.state_dict(), list(COCO.values()) if task.class_names == tuple(COCO) else None)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error


def check_dilated(model: DilatedFCN, source: Path) -> None:
    """Raise CheckpointError, naming what differs, if torchvision's FCN computes anything else with the same tensors."""
    backbone = model.backbone
    name = getattr(backbone, "name", type(backbone).__name__)
    differs = [f"is on {name}"] if not isinstance(backbone, ResNet) or name not in FCNS else []
    if isinstance(backbone, ResNet):
        read = backbone.stages[-2:] if model.auxiliary else backbone.stages[-1:]  # by the heads
        if read != ([4, 5] if model.auxiliary else [5]):
            differs.append(f"has stages {backbone.stages}")
        if backbone.output_stride != 8:
            differs.append(f"has output_stride {backbone.output_stride}")
        if backbone.norm == "frozen":
            differs.append("has norm frozen")
    if differs:
        raise CheckpointError(
            f"{source}: its DilatedFCN {', '.join(differs)}; torchvision's {' and '.join(FCNS.values())} are on "
            f"{' and '.join(FCNS)} with stages [4, 5], output_stride 8 and norm batch: train one like that"
        )


def _say(task: Task, state: dict[str, Tensor], target: Path) -> None:
    """Say which of torchvision's functions builds the network that ``state`` is for, and what it must be told."""
    model = task.model
    if isinstance(model, DilatedFCN):
        body, count = model.backbone, len(task.class_names)
        names = [f"{FCNS[str(body.name)]}({_settings(count)}, aux_loss={model.auxiliary is not None})"]
        log.info("%s: state dict for torchvision, %d classes", target, count)
    else:
        body, count = model.backbone.backbone, len(state[SCORES])
        names = [f"{name}({_settings(count)})" for name in structures(state) if _fits(name, state)]
        log.info(
            "%s: state dict for torchvision, %d classes and the background, %d labels",
            target,
            len(task.class_names),
            count,
        )
    log.info(
        "it is loaded by %s", " or ".join(names) or "a detector of torchvision's with the same layers, to be built"
    )
    if not isinstance(model, DilatedFCN):
        log.info("thresholds and numbers of boxes are torchvision's own, if it is not told others")
    found = {layer.eps for layer in body.modules() if hasattr(layer, "running_var")}
    if found != {EPSILON}:
        log.warning("set eps of its batch norms to %s: it is %g there", ", ".join(f"{eps:g}" for eps in found), EPSILON)


def _settings(count: int) -> str:
    """What each function of torchvision's must be told to build a network for a state dict."""
    return f"weights=None, weights_backbone=None, num_classes={count}"


def _fits(name: str, state: dict[str, Tensor]) -> bool:
    """Whether torchvision's function ``name`` builds a network with the tensors of ``state``, shapes and all."""
    with torch.device("meta"):
        built = get_model(name, weights=None, weights_backbone=None, num_classes=len(state[SCORES])).state_dict()
    shapes = ({key: value.shape for key, value in of.items() if not key.endswith(COUNT)} for of in (built, state))
    return next(shapes) == next(shapes)
