"""`detseg convert`: torchvision's detectors to checkpoints, and back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor
from torchvision.models import get_model

from detseg import checkpoint
from detseg.cli.configs import find_config
from detseg.cli.console import check_writable
from detseg.cli.faults import PARSER, parse
from detseg.data import VOCSegmentation
from detseg.data.voc_segmentation import VOC_CLASSES
from detseg.errors import CheckpointError, ConfigError
from detseg.models import DilatedFCN, FasterRCNN
from detseg.models.dilated_fcn import AUXILIARY_WEIGHT
from detseg.models.weights import (
    COCO,
    PUBLISHED,
    epsilon,
    from_torchvision,
    published,
    segmenter_from_torchvision,
    segmenter_to_torchvision,
    structures,
    to_torchvision,
)
from detseg.modules import FPN
from detseg.modules.backbones import MobileNetV3, ResNet
from detseg.modules.backbones.resnet import PLAIN
from detseg.ops.anchors import cell_anchors
from detseg.recipe import build, recipe
from detseg.tasks import Detection, Segmentation, Task

log = logging.getLogger(__name__)

# By the blocks of the third stage, and whether these have a bottleneck.
RESNETS = {
    (2, False): "resnet18",
    (6, False): "resnet34",
    (6, True): "resnet50",
    (23, True): "resnet101",
    (36, True): "resnet152",
}
SCORES = "roi_heads.box_predictor.cls_score.weight"
COUNT = "num_batches_tracked"  # of batch norm that trains; frozen batch norm has no such count
EPSILON = 1e-5  # of batch norm in every detector that torchvision builds without published weights


def convert(arguments: Sequence[str]) -> None:
    """Turn the file that ``arguments`` name into the other kind."""
    parser = ArgumentParser(
        prog="detseg convert",
        usage="detseg convert SOURCE TARGET [--classes NAME,NAME...] [--model NAME]",
        **PARSER,
    )
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
    content = checkpoint.read(options.source)
    if "detseg" in content:
        task: Task = checkpoint.load(options.source)
        if not isinstance(task.network, (FasterRCNN, DilatedFCN)):
            raise CheckpointError(
                f"{options.source}: holds {type(task.network).__name__}, which is not turned into torchvision's"
            )
        state = _for_torchvision(task, options.source)
        torch.save(state, options.target)
        _say(task, state, options.target)
        return
    segments = "classifier.4.weight" in content  # as no detector has it
    try:
        if segments:
            task = _segmentation(content, options.classes)
        else:
            task = _task(content, options.source, options.classes, options.model)
    except CheckpointError as error:
        raise CheckpointError(f"{options.source}: {error}") from error
    checkpoint.save(task, options.target)
    log.info("%s: checkpoint with %d classes", options.target, len(task.classes))


def _for_torchvision(task: Task, source: Path) -> dict[str, Tensor]:
    """The state dict of a task's network under torchvision's names. Raises CheckpointError if torchvision has none."""
    network = task.network
    if isinstance(network, DilatedFCN) and isinstance(network.backbone, ResNet):
        return segmenter_to_torchvision(network.state_dict())
    backbone = getattr(network, "backbone", None)
    body = getattr(backbone, "body", None)
    name = getattr(body, "name", "")
    resnet = isinstance(body, ResNet) and body.stages == [2, 3, 4, 5] and name not in PLAIN
    mobile = isinstance(body, MobileNetV3) and body.stages == [5] and len(body.strides) == 2
    if not isinstance(backbone, FPN) or not (resnet or (mobile and name == "mobilenet_v3_large")):
        parts = " on ".join(type(part).__name__ for part in (network, backbone, body) if part is not None)
        parts += f" ({name})" if name else ""
        raise CheckpointError(
            f"{source}: holds {parts}; torchvision's detectors are on an FPN on {', '.join(RESNETS.values())} with "
            "stages 2 to 5, or on mobilenet_v3_large with stage 5 and its entry"
        )
    if network.pooling != "roi_align":
        raise CheckpointError(f"{source}: has {network.pooling}, and torchvision's detectors roi_align")
    sizes = [[32, 64, 128, 256, 512]] * 3 if mobile else [[32], [64], [128], [256], [512]]
    cells = [value for name, value in network.rpn.named_buffers() if name.startswith("cells")]
    published = [cell_anchors(of_map, (0.5, 1.0, 2.0)) for of_map in sizes]
    if len(cells) != len(published) or not all(map(torch.equal, cells, published)):
        raise CheckpointError(
            f"{source}: has anchors of its own, which a state dict does not say; torchvision's detectors have sizes "
            f"{sizes} and ratios 0.5, 1 and 2"
        )
    try:
        return to_torchvision(network.state_dict(), list(COCO.values()) if task.classes == tuple(COCO) else None)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _say(task: Task, state: dict[str, Tensor], target: Path) -> None:
    """Say which of torchvision's functions builds the network that ``state`` is for, and what it must be told."""
    if isinstance(task.network, DilatedFCN):
        name = task.network.backbone.name
        log.info("%s: state dict for torchvision's fcn_%s, %d classes", target, name, len(task.classes))
        return
    rows = len(state[SCORES])
    log.info(
        "%s: state dict for torchvision, %d classes and the background, %d labels", target, len(task.classes), rows
    )
    body = task.network.backbone.body
    settings = f"weights=None, weights_backbone=None, num_classes={rows}"
    names = [f"{name}({settings})" for name in structures(state) if _fits(name, state)]
    log.info(
        "it is loaded by %s", " or ".join(names) or "a detector of torchvision's with the same layers, to be built"
    )
    log.info("thresholds and numbers of boxes are torchvision's own, if it is not told others")
    found = {layer.eps for layer in body.modules() if hasattr(layer, "running_var")}
    if found != {EPSILON}:
        log.warning("set eps of its batch norms to %s: it is %g there", ", ".join(f"{eps:g}" for eps in found), EPSILON)


def _fits(name: str, state: dict[str, Tensor]) -> bool:
    """Whether torchvision's function ``name`` builds a network with the tensors of ``state``, shapes and all."""
    with torch.device("meta"):
        built = get_model(name, weights=None, weights_backbone=None, num_classes=len(state[SCORES])).state_dict()
    shapes = ({key: value.shape for key, value in of.items() if not key.endswith(COUNT)} for of in (built, state))
    return next(shapes) == next(shapes)


def _task(theirs: dict[str, Tensor], source: Path, names: str | None, model: str | None) -> Detection:
    """The task that a state dict of torchvision's is of: as configs/torchvision says, with the file's own classes."""
    known = published(source)
    model = model or known or next(iter(structures(theirs)), None)
    if model is None or SCORES not in theirs:
        held = next(iter(theirs), "nothing")
        raise CheckpointError(f"holds {held}, but not the weights of one of {', '.join(PUBLISHED)}")
    classes, labels = _classes(len(theirs[SCORES]) - 1, names)
    state = from_torchvision(theirs, labels)
    settings = yaml.safe_load(find_config(f"torchvision/{model}.yaml").read_text())
    network, data = _recipe(settings["model"]["network"]), _recipe(settings["data"])
    del network["arguments"]["weights"]
    body = network["arguments"]["backbone"]["arguments"]["body"]["arguments"]
    if body["name"] == "resnet50":
        body["name"] = _resnet(theirs)
    body["norm"] = "batch" if any(name.endswith(COUNT) for name in state) else "frozen"
    body["eps"] = epsilon(theirs, known)
    built = build(network, num_classes=len(classes))
    try:
        built.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"not the weights of {model}: {error}") from error
    task = Detection(built)
    task.classes, task.category_ids = classes, labels  # torchvision's labels are the ids of the data set
    task.data_recipe = data
    return task


def _segmentation(theirs: dict[str, Tensor], names: str | None) -> Segmentation:
    """The task that a state dict of torchvision's FCN is of."""
    state = segmenter_from_torchvision(theirs)
    blocks = {key.split(".")[2] for key in state if key.startswith("backbone.layer3.")}
    name = RESNETS.get((len(blocks), "backbone.layer1.0.conv3.weight" in state))
    count = len(state["head.4.weight"])
    auxiliary = AUXILIARY_WEIGHT if "auxiliary.4.weight" in state else 0.0
    try:
        backbone = ResNet(name, stages=[4, 5], norm="batch", output_stride=8)  # type: ignore[arg-type]
        network = DilatedFCN(backbone, count, auxiliary)
        network.load_state_dict(state)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"not an FCN on a dilated ResNet: {error}") from error
    task = Segmentation(network)
    task.classes = VOC_CLASSES if names is None else tuple(name.strip() for name in names.split(","))
    if len(task.classes) != count:
        raise ConfigError(f"--classes: the network has {count} classes, the names are {len(task.classes)}")
    task.category_ids = tuple(range(count))
    task.data_recipe = recipe(VOCSegmentation(root="datasets/VOCdevkit/VOC2012"))
    return task


def _classes(count: int, names: str | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The names of the classes, and torchvision's labels of them: COCO's, or those that are given."""
    if names is None and count == max(COCO.values()):
        return tuple(COCO), tuple(COCO.values())
    classes = tuple(name.strip() for name in names.split(",")) if names else ()
    if len(classes) != count:
        raise ConfigError(f"--classes: the network has {count} classes, the names are {len(classes)}; name them all")
    return classes, tuple(range(1, count + 1))


def _resnet(theirs: dict[str, Tensor]) -> str:
    """Which ResNet a detector is on."""
    blocks = {key.split(".")[3] for key in theirs if key.startswith("backbone.body.layer3.")}
    name = RESNETS.get((len(blocks), "backbone.body.layer1.0.conv3.weight" in theirs))
    if name is None:
        raise CheckpointError(f"its backbone is none of {', '.join(RESNETS.values())}")
    return name


def _recipe(settings: Any) -> Any:
    """The recipe of what the settings of a configuration describe."""
    if isinstance(settings, dict) and "class_path" in settings:
        return {"class": settings["class_path"], "arguments": _recipe(settings.get("init_args", {}))}
    if isinstance(settings, dict):
        return {key: _recipe(value) for key, value in settings.items()}
    return settings
