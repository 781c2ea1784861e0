"""Export detectors and FCNs to torchvision: the state dict, and the calls that build the model that loads it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import get_model

from detseg.errors import CheckpointError
from detseg.model_zoo import FCNS, RESNETS
from detseg.models import DilatedFCN, FasterRCNN
from detseg.modules import FPN, AnchorGenerator, RoIAlign
from detseg.modules.backbones import MobileNetV3, ResNet
from detseg.modules.backbones.resnet import PLAIN
from detseg.weights.state_dict import COUNT
from detseg.weights.torchvision import COCO, num_labels, segmenter_to_torchvision, structures, to_torchvision

EPSILON = 1e-5  # of batch norm in every model that torchvision builds without published weights
RESNET_ANCHORS = [[32], [64], [128], [256], [512]]
MOBILENET_ANCHORS = [[32, 64, 128, 256, 512]] * 3


class TorchvisionExport(NamedTuple):
    """A model for torchvision."""

    state_dict: dict[str, Tensor]
    num_labels: int  # with the background
    constructors: list[str]  # calls that build a model for the state dict; none if torchvision has no function for it
    epsilons: set[float]  # of batch norm


def export_torchvision(model: nn.Module) -> TorchvisionExport:
    """Convert a Faster or Mask R-CNN, or a ``DilatedFCN``.

    COCO's 80 classes become torchvision's 91 labels. Raises CheckpointError, naming the difference, if torchvision has
    no model that computes the same with the same tensors.
    """
    if isinstance(model, DilatedFCN):
        return _export_segmenter(model)
    if isinstance(model, FasterRCNN):
        return _export_detector(model)
    raise CheckpointError(f"holds {type(model).__name__}, which cannot be converted to torchvision")


def _export_detector(model: FasterRCNN) -> TorchvisionExport:
    _check_detector(model)
    state = to_torchvision(model.state_dict(), list(COCO.values()) if model.class_names == tuple(COCO) else None)
    labels = num_labels(state)
    names = [f"{name}({_arguments(labels)})" for name in structures(state) if _builds(name, state)]
    return TorchvisionExport(state, labels, names, _epsilons(model.backbone))


def _export_segmenter(model: DilatedFCN) -> TorchvisionExport:
    check_dilated(model)
    name = FCNS[str(model.backbone.name)]
    call = f"{name}({_arguments(model.num_classes)}, aux_loss={model.auxiliary is not None})"
    return TorchvisionExport(
        segmenter_to_torchvision(model.state_dict()), model.num_classes, [call], _epsilons(model.backbone)
    )


def _check_detector(model: FasterRCNN) -> None:
    fpn = getattr(model, "backbone", None)
    backbone = getattr(fpn, "backbone", None)
    name = getattr(backbone, "name", "")
    is_resnet = isinstance(backbone, ResNet) and backbone.stages == [2, 3, 4, 5] and name not in PLAIN
    is_mobilenet = isinstance(backbone, MobileNetV3) and backbone.stages == [5] and len(backbone.strides) == 2
    if not isinstance(fpn, FPN) or not (is_resnet or (is_mobilenet and name == "mobilenet_v3_large")):
        parts = " on ".join(type(part).__name__ for part in (model, fpn, backbone) if part is not None)
        parts += f" ({name})" if name else ""
        raise CheckpointError(
            f"holds {parts}; torchvision's detectors are on an FPN on {', '.join(RESNETS.values())} with stages 2 to "
            "5, or on mobilenet_v3_large with stages [5] and return_stage_start"
        )
    if not isinstance(model.roi_heads.pooler, RoIAlign):
        raise CheckpointError(f"has {type(model.roi_heads.pooler).__name__}, and torchvision's detectors RoIAlign")
    sizes = MOBILENET_ANCHORS if is_mobilenet else RESNET_ANCHORS
    anchors = model.rpn.anchor_generator.base_anchors
    expected = AnchorGenerator(sizes).build(range(len(sizes))).base_anchors
    if len(anchors) != len(expected) or not all(map(torch.equal, anchors, expected)):
        raise CheckpointError(
            f"has anchors of its own, which a state dict does not contain; torchvision's detectors have sizes {sizes} "
            "and ratios 0.5, 1 and 2"
        )


def check_dilated(model: DilatedFCN) -> None:
    """Raise CheckpointError, naming the difference, if torchvision's FCN computes anything else with the tensors."""
    backbone = model.backbone
    name = getattr(backbone, "name", type(backbone).__name__)
    differences = [f"is on {name}"] if not isinstance(backbone, ResNet) or name not in FCNS else []
    if isinstance(backbone, ResNet):
        stages = backbone.stages[-2:] if model.auxiliary else backbone.stages[-1:]  # that the heads read
        if stages != ([4, 5] if model.auxiliary else [5]):
            differences.append(f"has stages {backbone.stages}")
        if backbone.output_stride != 8:
            differences.append(f"has output_stride {backbone.output_stride}")
        if backbone.norm == "frozen":
            differences.append("has norm frozen")
    if differences:
        raise CheckpointError(
            f"its DilatedFCN {', '.join(differences)}; torchvision's {' and '.join(FCNS.values())} are on "
            f"{' and '.join(FCNS)} with stages [4, 5], output_stride 8 and norm batch: train one like that"
        )


def _arguments(labels: int) -> str:
    return f"weights=None, weights_backbone=None, num_classes={labels}"


def _builds(name: str, state: dict[str, Tensor]) -> bool:
    """Return whether torchvision's function ``name`` builds a model with these tensors and their shapes."""
    with torch.device("meta"):
        built = get_model(name, weights=None, weights_backbone=None, num_classes=num_labels(state)).state_dict()
    shapes = [{key: value.shape for key, value in one.items() if not key.endswith(COUNT)} for one in (built, state)]
    return shapes[0] == shapes[1]


def _epsilons(backbone: nn.Module) -> set[float]:
    layers: list[Any] = [layer for layer in backbone.modules() if hasattr(layer, "running_var")]
    return {layer.eps for layer in layers}
