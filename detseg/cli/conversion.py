"""`detseg convert`: torchvision's Faster R-CNN to a checkpoint, and back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import ArgumentParser
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from detseg import checkpoint
from detseg.cli.faults import PARSER, parse
from detseg.data import COCO, VOCSegmentation
from detseg.data.voc_segmentation import VOC_CLASSES
from detseg.errors import CheckpointError, ConfigError
from detseg.models import DilatedFCN, FasterRCNN
from detseg.models.dilated_fcn import AUXILIARY_WEIGHT
from detseg.models.weights import (
    from_torchvision,
    segmenter_from_torchvision,
    segmenter_to_torchvision,
    to_torchvision,
)
from detseg.modules import FPN
from detseg.modules.backbones import ResNet
from detseg.recipe import recipe
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


def convert(arguments: Sequence[str]) -> None:
    """Turn the file that ``arguments`` name into the other kind."""
    parser = ArgumentParser(
        prog="detseg convert",
        usage="detseg convert SOURCE TARGET [--classes NAME,NAME...]",
        **PARSER,
    )
    parser.add_argument("source", type=Path, help="State dict of torchvision's Faster R-CNN or FCN, or checkpoint.")
    parser.add_argument("target", type=Path, help="File to write: the other one of the two.")
    parser.add_argument(
        "--classes", type=str | None, help="Names, of a detector without background; by default COCO's or VOC's."
    )
    options = parse(parser, arguments)
    content = checkpoint.read(options.source)
    if "detseg" in content:
        task = checkpoint.load(options.source)
        if not isinstance(task.network, (FasterRCNN, DilatedFCN)):
            raise CheckpointError(
                f"{options.source}: holds {type(task.network).__name__}, which is not turned into torchvision's"
            )
        state = _for_torchvision(task, options.source)
        _make_folder(options.target)
        torch.save(state, options.target)
        log.info("%s: state dict for torchvision, %d classes and the background", options.target, len(task.classes))
        return
    segments = "classifier.4.weight" in content  # as no detector has it
    try:
        state = segmenter_from_torchvision(content) if segments else from_torchvision(content)
    except CheckpointError as error:
        raise CheckpointError(f"{options.source}: {error}") from error
    task = (_segmentation if segments else _task)(state, options.source, options.classes)
    _make_folder(options.target)
    checkpoint.save(task, options.target)
    log.info("%s: checkpoint with %d classes", options.target, len(task.classes))


def _for_torchvision(task: Task, source: Path) -> dict[str, Tensor]:
    """The state dict of a task's network under torchvision's names. Raises CheckpointError if torchvision has none."""
    if isinstance(task.network, DilatedFCN) and isinstance(task.network.backbone, ResNet):
        return segmenter_to_torchvision(task.network.state_dict())
    backbone = getattr(task.network, "backbone", None)
    body = getattr(backbone, "body", None)
    if not isinstance(backbone, FPN) or not isinstance(body, ResNet):
        parts = " on ".join(type(part).__name__ for part in (task.network, backbone, body) if part is not None)
        raise CheckpointError(f"{source}: holds {parts}; torchvision's Faster R-CNN is one on an FPN on a ResNet")
    try:
        return to_torchvision(task.network.state_dict())
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _make_folder(target: Path) -> None:
    """Make the folder that ``target`` is to lie in. Raises ConfigError if that, or the file, cannot be made."""
    if target.is_dir():
        raise ConfigError(f"{target}: is a folder; give the name of the file to write")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{target}: cannot be written: {error.strerror}; give another file") from error


def _task(state: dict[str, Tensor], source: Path, names: str | None) -> Detection:
    """The task that a converted state dict is of."""
    blocks = {key.split(".")[3] for key in state if key.startswith("backbone.body.layer3.")}
    name = RESNETS.get((len(blocks), "backbone.body.layer1.0.conv3.weight" in state))
    if name is None or "box_head.classes.weight" not in state:
        raise CheckpointError(f"{source}: not the state dict of a Faster R-CNN with a ResNet and a feature pyramid")
    # Batch norm that counts batches trains; frozen batch norm has no such count.
    norm = "batch" if any(key.endswith("num_batches_tracked") for key in state) else "frozen"
    count = len(state["box_head.classes.weight"]) - 1
    network = FasterRCNN(FPN(ResNet(name, norm=norm)), count)  # type: ignore[arg-type]
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{source}: {error}") from error
    task = Detection(network)
    task.classes = _classes(names, count)
    task.category_ids = tuple(range(1, count + 1))  # torchvision's labels are the ids of the data set
    task.data_recipe = recipe(COCO(root="datasets/coco"))
    return task


def _segmentation(state: dict[str, Tensor], source: Path, names: str | None) -> Segmentation:
    """The task that a converted state dict of a DilatedFCN is of."""
    blocks = {key.split(".")[2] for key in state if key.startswith("backbone.layer3.")}
    name = RESNETS.get((len(blocks), "backbone.layer1.0.conv3.weight" in state))
    count = len(state["head.4.weight"])
    auxiliary = AUXILIARY_WEIGHT if "auxiliary.4.weight" in state else 0.0
    try:
        backbone = ResNet(name, stages=[4, 5], norm="batch", output_stride=8)  # type: ignore[arg-type]
        network = DilatedFCN(backbone, count, auxiliary)
        network.load_state_dict(state)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{source}: not an FCN on a dilated ResNet: {error}") from error
    task = Segmentation(network)
    task.classes = VOC_CLASSES if names is None else tuple(name.strip() for name in names.split(","))
    if len(task.classes) != count:
        raise ConfigError(f"--classes: the network has {count} classes, the names are {len(task.classes)}")
    task.category_ids = tuple(range(count))
    task.data_recipe = recipe(VOCSegmentation(root="datasets/VOCdevkit/VOC2012"))
    return task


def _classes(names: str | None, count: int) -> tuple[str, ...]:
    """The names of the classes; COCO's numbers that stand for nothing are told apart by the number."""
    if names is None:
        coco = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]
        classes = tuple(f"unused {label}" if name == "N/A" else name for label, name in enumerate(coco, 1))
    else:
        classes = tuple(name.strip() for name in names.split(","))
    if len(classes) != count:
        raise ConfigError(f"--classes: the network has {count} classes, the names are {len(classes)}")
    return classes
