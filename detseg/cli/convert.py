"""`detseg convert`: torchvision's detectors to checkpoints, and back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torchvision.models import get_model

from detseg import checkpoint
from detseg.cli._configs import find_config
from detseg.cli._console import check_writable
from detseg.cli._parser import make_parser, parse
from detseg.configurable import from_config, to_config
from detseg.data import VOCSegmentation
from detseg.data.modules.voc_segmentation import VOC_CLASSES
from detseg.errors import CheckpointError, ConfigError
from detseg.models import DilatedFCN, FasterRCNN
from detseg.models.dilated_fcn import AUXILIARY_WEIGHT
from detseg.modules import FPN, RoIAlign
from detseg.modules.backbones import MobileNetV3, ResNet
from detseg.modules.backbones.resnet import PLAIN
from detseg.ops.anchors import base_anchors
from detseg.tasks import DetectionTask, SegmentationTask, Task
from detseg.weights.state_dict import COUNT, read_weights, state_dict_mismatch
from detseg.weights.torchvision import (
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
FCNS = {"resnet50": "fcn_resnet50", "resnet101": "fcn_resnet101"}  # torchvision's, by their backbones
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
    segments = "classifier.4.weight" in content  # as no detector has it
    try:
        if segments:
            task = _segmentation(content, options.classes)
        else:
            task = _task(content, options.source, options.classes, options.model)
    except CheckpointError as error:
        raise CheckpointError(f"{options.source}: {error}") from error
    checkpoint.save(task, options.target)
    log.info("%s: checkpoint with %d classes", options.target, len(task.class_names))


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


def _task(theirs: dict[str, Tensor], source: Path, names: str | None, name: str | None) -> DetectionTask:
    """The task that a state dict of torchvision's is of: as configs/torchvision says, with the file's own classes."""
    known = published(source)
    name = name or known or next(iter(structures(theirs)), None)
    if name is None or SCORES not in theirs:
        held = next(iter(theirs), "nothing")
        known_ones = ", ".join([*PUBLISHED, *FCNS.values()])
        raise CheckpointError(f"holds {held}, but not the weights of one of {known_ones}")
    classes, labels = _classes(len(theirs[SCORES]) - 1, names)
    state = from_torchvision(theirs, labels)
    settings = yaml.safe_load(find_config(f"torchvision/{name}.yaml").read_text())
    model, data = _recipe(settings["model"]), _recipe(settings["data"])
    del model["init_args"]["weights"]
    body = model["init_args"]["backbone"]["init_args"]["backbone"]["init_args"]
    if body["name"] == "resnet50":
        body["name"] = _resnet(theirs, "backbone.body.")
    body["norm"] = "batch" if any(key.endswith(COUNT) for key in state) else "frozen"
    body["eps"] = epsilon(theirs, known)
    built = from_config(model, num_classes=len(classes))
    if said := state_dict_mismatch(state, built.state_dict()):
        raise CheckpointError(f"not the weights of {name}: {said}")
    built.load_state_dict(state, strict=False)  # counts of batch norm may be missing
    task = DetectionTask(built)
    built.class_names, built.category_ids = classes, labels  # torchvision's labels are the ids of the data set
    task.data_recipe = data
    built.preprocessing = from_config(data).preprocessing
    return task


def _segmentation(theirs: dict[str, Tensor], names: str | None) -> SegmentationTask:
    """The task that a state dict of torchvision's FCN is of."""
    state = segmenter_from_torchvision(theirs)
    name = _resnet(theirs, "backbone.")
    if name not in FCNS:
        raise CheckpointError(f"its FCN is on {name}, and torchvision's are on {' and '.join(FCNS)}")
    count = len(state["head.4.weight"])
    backbone = ResNet(name, stages=[4, 5], norm="batch", output_stride=8)  # type: ignore[arg-type]
    auxiliary = any(key.startswith("aux_classifier.") for key in theirs)
    model = DilatedFCN(backbone, count, AUXILIARY_WEIGHT if auxiliary else 0.0)
    if said := state_dict_mismatch(theirs, segmenter_to_torchvision(model.state_dict())):
        raise CheckpointError(f"not the weights of {FCNS[name]} for {count} classes: {said}")
    model.load_state_dict(state, strict=False)  # as above
    task = SegmentationTask(model)
    if names is None and count != len(VOC_CLASSES):
        raise ConfigError(f"--classes: the network has {count} classes, and VOC {len(VOC_CLASSES)}; name them all")
    model.class_names = VOC_CLASSES if names is None else tuple(name.strip() for name in names.split(","))
    if len(task.class_names) != count:
        raise ConfigError(
            f"--classes: the network has {count} classes, the names are {len(task.class_names)}; name them all, the "
            "background too"
        )
    model.category_ids = tuple(range(count))
    task.data_recipe = to_config(VOCSegmentation(root="datasets/VOCdevkit/VOC2012"))
    return task


def _classes(count: int, names: str | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The names of the classes, and torchvision's labels of them: COCO's, or those that are given."""
    if names is None and count == max(COCO.values()):
        return tuple(COCO), tuple(COCO.values())
    classes = tuple(name.strip() for name in names.split(",")) if names else ()
    if len(classes) != count:
        raise ConfigError(f"--classes: the network has {count} classes, the names are {len(classes)}; name them all")
    return classes, tuple(range(1, count + 1))


def _resnet(theirs: dict[str, Tensor], prefix: str) -> str:
    """Which ResNet a network is on whose names begin with ``prefix``."""
    blocks = {key.removeprefix(prefix).split(".")[1] for key in theirs if key.startswith(f"{prefix}layer3.")}
    name = RESNETS.get((len(blocks), f"{prefix}layer1.0.conv3.weight" in theirs))
    if name is None:
        raise CheckpointError(f"its backbone is none of {', '.join(RESNETS.values())}")
    return name


def _recipe(settings: Any) -> Any:
    """The recipe of what the settings of a configuration describe."""
    if isinstance(settings, dict) and "class_path" in settings:
        return {"class": settings["class_path"], "init_args": _recipe(settings.get("init_args", {}))}
    if isinstance(settings, dict):
        return {key: _recipe(value) for key, value in settings.items()}
    return settings
