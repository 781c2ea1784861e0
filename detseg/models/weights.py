"""Weights of torchvision's detectors in ours, and ours in torchvision's.

The networks are the same; the names differ, and so do two layouts. torchvision counts the background as class 0 of the
softmax, here it is the last. torchvision has four box outputs for the background, which nothing reads; here there are
none, and they are written as zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detseg.errors import CheckpointError

# Beginnings of names, ours and torchvision's. What is below a beginning has the same name on both sides.
FASTER_RCNN_FPN = (
    ("backbone.body.", "backbone.body."),
    *((f"backbone.inner.{level}.", f"backbone.fpn.inner_blocks.{level}.0.") for level in range(4)),
    *((f"backbone.outer.{level}.", f"backbone.fpn.layer_blocks.{level}.0.") for level in range(4)),
    ("rpn.conv.", "rpn.head.conv.0.0."),
    ("rpn.objectness.", "rpn.head.cls_logits."),
    ("rpn.deltas.", "rpn.head.bbox_pred."),
    ("box_head.body.", "roi_heads.box_head."),
    ("box_head.classes.", "roi_heads.box_predictor.cls_score."),
    ("box_head.deltas.", "roi_heads.box_predictor.bbox_pred."),
)


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of ``FasterRCNN(FPN(ResNet(...)))`` from one of torchvision's ``fasterrcnn_resnet50_fpn``.

    Raises CheckpointError, naming it, for an entry that such a model does not have.
    """
    ours = {}
    for name, value in state.items():
        new = _rename(_current(name), [(theirs, own) for own, theirs in FASTER_RCNN_FPN])
        if new.startswith("box_head.classes."):
            value = value.roll(-1, dims=0)
        elif new.startswith("box_head.deltas."):
            value = value[4:]
        ours[new] = value
    return ours


def to_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of ``from_torchvision``."""
    theirs = {}
    for name, value in state.items():
        if name.startswith("box_head.classes."):
            value = value.roll(1, dims=0)
        elif name.startswith("box_head.deltas."):
            value = torch.cat([torch.zeros_like(value[:4]), value])
        theirs[_rename(name, FASTER_RCNN_FPN)] = value
    return theirs


def _rename(name: str, table: tuple[tuple[str, str], ...] | list[tuple[str, str]]) -> str:
    for old, new in table:
        if name.startswith(old):
            return new + name.removeprefix(old)
    raise CheckpointError(f"{name}: not an entry of a Faster R-CNN with a ResNet and a feature pyramid")


def _current(name: str) -> str:
    """torchvision's name of today for one of its older checkpoints, the published COCO_V1 among them."""
    if "_blocks." in name and name.count(".") == 4:
        stem, _, kind = name.rpartition(".")
        return f"{stem}.0.{kind}"
    if name.startswith("rpn.head.conv.") and name.count(".") == 3:
        return name.replace("rpn.head.conv.", "rpn.head.conv.0.0.")
    return name


# Beginnings of the names of a segmentation network, as above. ``class_weights``, of the loss, are ours alone.
DILATED_FCN = (("backbone.", "backbone."), ("head.", "classifier."), ("auxiliary.", "aux_classifier."))


def segmenter_from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of ``DilatedFCN(ResNet(...))`` from one of torchvision's ``fcn_resnet50`` or ``fcn_resnet101``.

    Raises CheckpointError, naming it, for an entry that such a model does not have, or lacks.
    """
    ours = _renamed(state, {theirs: own for own, theirs in DILATED_FCN})
    if "head.4.weight" not in ours:
        raise CheckpointError("classifier.4.weight is missing; every FCN on a dilated ResNet has it")
    return {"class_weights": torch.ones(len(ours["head.4.weight"])), **ours}


def segmenter_to_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of ``segmenter_from_torchvision``. Raises CheckpointError for a state of another network."""
    return _renamed({name: state[name] for name in state if name != "class_weights"}, dict(DILATED_FCN))


def _renamed(state: dict[str, Tensor], table: dict[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
        old = next((old for old in table if name.startswith(old)), None)
        if old is None:
            raise CheckpointError(f"{name}: not an entry of an FCN on a dilated ResNet")
        renamed[table[old] + name.removeprefix(old)] = value
    return renamed
