"""Weights of torchvision's detectors in ours, and ours in torchvision's.

The networks are the same; the names differ, and so does what belongs to a class. torchvision counts the background as
class 0 of the softmax, here it is the last. torchvision has box and mask outputs for the background, which nothing
reads; here there are none, and they are written as zeros. Its COCO weights have 91 labels, the ids of the categories,
11 of which no object has; here there are the 80 classes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from detseg.configurable import WEIGHTS_IN_CHECKPOINT
from detseg.errors import CheckpointError
from detseg.weights.state_dict import fetch, model_state_dict, read_weights, state_dict_mismatch

log = logging.getLogger(__name__)

MASK_PREDICTOR = ("conv5_mask", "mask_fcn_logits")  # layers that torchvision keeps apart from the mask head

# Beginnings of names, ours and torchvision's; the first that fits counts. What is below one has the same name in both.
NAMES = (
    *((f"backbone.backbone.features.{block}.", f"backbone.body.{block}.") for block in range(19)),  # of MobileNet
    ("backbone.backbone.", "backbone.body."),
    *(
        (f"backbone.{ours}.{level}.{part}", f"backbone.fpn.{theirs}.{level}.{number}.")
        for ours, theirs in (("lateral_convs", "inner_blocks"), ("output_convs", "layer_blocks"))
        for level in range(4)
        for part, number in (("norm.", 1), ("", 0))
    ),
    *((f"rpn.head.conv.{layer}.", f"rpn.head.conv.{layer}.0.") for layer in range(2)),
    *(
        (f"roi_heads.{head}.convs.{layer}.{part}", f"roi_heads.{head}.{layer}.{number}.")
        for head in ("box_head", "mask_head")
        for layer in range(4)
        for part, number in (("norm.", 1), ("", 0))
    ),
    ("roi_heads.box_head.fc.", "roi_heads.box_head.5."),
    *((f"roi_heads.mask_head.{layer}.", f"roi_heads.mask_predictor.{layer}.") for layer in MASK_PREDICTOR),
    *((name, name) for name in ("rpn.head.", "roi_heads.box_head.fc", "roi_heads.box_predictor.")),
)

DETECTOR = "a Faster or Mask R-CNN with a feature pyramid that torchvision has"  # whose names these are
DILATED = "an FCN on a dilated ResNet"  # and those of DILATED_FCN

SOFTMAX = "roi_heads.box_predictor.cls_score."  # the layer that has a row for the background as well
# Rows of each class, by layer.
ROWS = {SOFTMAX: 1, "roi_heads.box_predictor.bbox_pred.": 4, "roi_heads.mask_head.mask_fcn_logits.": 1}

# Published detectors, and what their frozen batch norm adds to the variance where it isn't what the backbone's does.
# The oldest two were trained when torchvision added nothing, MobileNet's backbone with PyTorch's number.
PUBLISHED: dict[str, float | None] = {
    "fasterrcnn_resnet50_fpn": 0.0,
    "fasterrcnn_resnet50_fpn_v2": None,
    "fasterrcnn_mobilenet_v3_large_fpn": 1e-5,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 1e-5,
    "maskrcnn_resnet50_fpn": 0.0,
    "maskrcnn_resnet50_fpn_v2": None,
}

_categories: list[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
COCO = {name: label for label, name in enumerate(_categories) if name not in ("__background__", "N/A")}
"""COCO's 80 classes in their order, and torchvision's label of each."""

UNUSED = -1e4  # bias of a label that no object has: its probability is zero, in half precision too


class Pretrained(NamedTuple):
    """What weights say of the classes, kept until it is known which ones are to be found."""

    source: str
    classes: tuple[str, ...]  # none if the file does not name them
    rows: dict[str, Tensor]  # of the layers that depend on the classes
    random: dict[str, Tensor]  # how these layers began


def from_torchvision(state: Mapping[str, Tensor], labels: Sequence[int] | None = None) -> dict[str, Tensor]:
    """The state dict of our network from one of torchvision's detectors with the same structure.

    ``labels`` are torchvision's labels of the classes, in the order that these are to have; by default all.

    Raises CheckpointError, naming it, for an entry that such a model does not have.
    """
    ours = {}
    for name, value in state.items():
        new = _renamed(_current(name), ((theirs, own) for own, theirs in NAMES), DETECTOR)
        if count := _rows(new):
            of_label = _by_class(value, count)
            chosen = [
                *(range(1, len(of_label)) if labels is None else labels),
                *([0] if new.startswith(SOFTMAX) else []),
            ]
            value = of_label[chosen].flatten(0, 1)
        ours[new] = value
    return ours


def to_torchvision(state: Mapping[str, Tensor], labels: Sequence[int] | None = None) -> dict[str, Tensor]:
    """The inverse of ``from_torchvision``: ``labels`` are those to give to the classes, by default 1, 2 and so on.

    Labels between them that no class has are never found.
    """
    theirs = {}
    for name, value in state.items():
        if count := _rows(name):
            of_class = _by_class(value, count)
            softmax = name.startswith(SOFTMAX)
            chosen = labels or range(1, len(of_class) + (not softmax))
            value = value.new_full((max(chosen) + 1, *of_class.shape[1:]), UNUSED if name == f"{SOFTMAX}bias" else 0)
            value[[*chosen, *([0] if softmax else [])]] = of_class
            value = value.flatten(0, 1)
        theirs[_renamed(name, NAMES, DETECTOR)] = value
    return theirs


def structures(state: Iterable[str]) -> list[str]:
    """Which of torchvision's published detectors have tensors of the names in ``state``, which are torchvision's."""
    names = set(map(_current, state))
    kind = "maskrcnn" if any(name.startswith("roi_heads.mask_head.") for name in names) else "fasterrcnn"
    if "backbone.body.conv1.weight" in names:
        return [f"{kind}_resnet50_fpn_v2" if "roi_heads.box_head.5.weight" in names else f"{kind}_resnet50_fpn"]
    if "backbone.body.1.block.0.0.weight" in names and kind == "fasterrcnn":
        return ["fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"]
    return []


def published(path: str | Path) -> str | None:
    """The published detector that a file holds the COCO weights of, which its hash tells; None for any other file."""
    if not Path(path).is_file():
        return None
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    for name in PUBLISHED:
        for weights in torchvision.models.get_model_weights(name):
            if digest.startswith(weights.url.rpartition("-")[2].removesuffix(".pth")):
                return name
    return None


def epsilon(state: Iterable[str], published: str | None) -> float | None:
    """What batch norm added to the variance where torchvision's ``state`` was trained; None: as in the backbone.

    ``published`` is the detector that these are the COCO weights of, if they are.
    """
    if published is not None:
        return PUBLISHED[published]
    found = structures(state)
    return PUBLISHED[found[0]] if len(found) > 1 else None  # one's own ResNet has that of today's torchvision


def load_weights(model: nn.Module, weights: str | None) -> None:
    """Load ``weights`` of a whole detector into ``model``, whatever classes they are for.

    ``weights`` is ``torchvision:COCO_V1``, the published weights of torchvision's detector with the structure of the
    network, or ``torchvision:NAME:COCO_V1``, those of the one called so (fetched, with their hash checked); or a file
    with a state dict of such a detector, a checkpoint, or the folder of a published one; or None, which does nothing.

    The layers that depend on the classes are taken row by row if there are as many classes. When their names are known
    ``match_classes`` does better.

    Raises CheckpointError, naming weights and tensors, for those of another network or that cannot be read.
    """
    model.pretrained = None  # type: ignore[assignment]
    if weights is None or weights == WEIGHTS_IN_CHECKPOINT:
        return
    state, classes, eps = _read(model, weights)
    own = model.state_dict()
    if said := state_dict_mismatch(state, own, shape=_shape_of_one):
        raise CheckpointError(f"{weights}: these are not weights of this {type(model).__name__}: {said}")
    rows = {name: value for name, value in state.items() if _rows(name)}
    random = {name: own[name].clone() for name in rows}
    fitting = {name for name in state if name in own and own[name].shape == state[name].shape}
    model.load_state_dict({name: state[name] for name in fitting}, strict=False)
    if eps is not None:
        getattr(model.backbone, "backbone", model.backbone).set_eps(eps)  # type: ignore[operator, union-attr]
    model.pretrained = Pretrained(weights, classes, rows, random)  # type: ignore[assignment]


@torch.no_grad()
def match_classes(model: nn.Module, classes: Sequence[str]) -> None:
    """Give each of the ``classes`` that the pretrained weights know by name its rows of the last layers.

    The others begin at random, which is logged with the names of the layers. Does nothing a second time, or where no
    weights were loaded.
    """
    pretrained: Pretrained | None = getattr(model, "pretrained", None)
    if pretrained is None:
        return
    model.pretrained = None  # type: ignore[assignment]
    source, known, rows, random = pretrained
    layers = ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in rows))
    if not known:
        same = all(rows[name].shape == random[name].shape for name in rows)
        how = (
            "are taken row by row, as it does not name its classes" if same else "begin at random: it has other classes"
        )
        log.info("%s: %s %s", source, layers, how)
        return
    found = [(place, known.index(name)) for place, name in enumerate(classes) if name in known]
    to, of = ([pair[side] for pair in found] for side in (0, 1))
    own = model.state_dict()
    for name, value in rows.items():
        new, old = (_by_class(rows, _rows(name)) for rows in (random[name], value))
        new[to] = old[of].to(new)
        if found and name.startswith(SOFTMAX):
            new[-1] = old[-1].to(new)
        own[name].copy_(new.flatten(0, 1))
    missing = [name for name in classes if name not in known]
    if not found:
        log.info("%s: %s begin at random, for none of its classes is one of these", source, layers)
    elif missing:
        log.info("%s: %s begin at random for %s, which it does not know", source, layers, ", ".join(missing))
    else:
        log.info("%s: %s are taken over, for it knows all %d classes", source, layers, len(classes))


def _read(model: nn.Module, weights: str) -> tuple[dict[str, Tensor], tuple[str, ...], float | None]:
    """The state that ``weights`` mean, under our names, its classes if they are known, and batch norm's epsilon."""
    name: str | None
    fetched = weights.startswith("torchvision:")
    content = {} if fetched else read_weights(weights)
    try:
        if "detseg" in content:
            return _read_ours(content)
        name, state = _fetch(model, *weights.split(":")[1:]) if fetched else (published(weights), content)
        scores = state.get("roi_heads.box_predictor.cls_score.weight")
        coco = scores is not None and len(scores) == len(_categories)
        if coco and name is None:
            log.info("%s: taken for weights with COCO's classes, for it has their %d labels", weights, len(_categories))
        ours = from_torchvision(state, list(COCO.values()) if coco else None)
    except CheckpointError as error:
        raise CheckpointError(f"{weights}: {error}") from error
    return ours, tuple(COCO) if coco else (), epsilon(state, name)


def _read_ours(content: dict[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...], float | None]:
    try:
        about = content["detseg"]
        state = model_state_dict(content)
        backbone = about["model"]["init_args"]["backbone"]
        body = backbone["init_args"].get("backbone", backbone)  # a single map has none
        return state, tuple(map(str, about["classes"])), body["init_args"].get("eps")
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError("not the checkpoint of a detector") from error


def _fetch(model: nn.Module, *of: str) -> tuple[str, dict[str, Tensor]]:
    """The detector that ``[NAME:]VERSION`` means, and its weights."""
    *named, version = of
    names = named or structures(to_torchvision(model.state_dict()))
    if len(names) != 1 or names[0] not in PUBLISHED:
        possible = [f"torchvision:{name}:{version}" for name in (names if len(names) > 1 else PUBLISHED)]
        way_on = "name one of them" if names else "none of these is like this network"
        raise CheckpointError(f"torchvision has {', '.join(possible)}; {way_on}")
    choices = torchvision.models.get_model_weights(names[0])
    if version not in choices.__members__:
        raise CheckpointError(f"torchvision has {', '.join(known.name for known in choices)} of {names[0]}")
    return names[0], fetch(choices[version])


def _shape_of_one(name: str, value: Tensor) -> tuple[int, ...]:
    """The shape of a tensor, or of a row of it where these are as many as there are classes."""
    return tuple(value.shape[1:] if _rows(name) else value.shape)


def _by_class(rows: Tensor, count: int) -> Tensor:
    """(K * count, ...) to (K, count, ...)."""
    return rows.view(-1, count, *rows.shape[1:])


def _rows(name: str) -> int:
    """How many rows a class has in the tensor called ``name``; 0 where nothing belongs to a class."""
    return next((count for layer, count in ROWS.items() if name.startswith(layer)), 0)


def _current(name: str) -> str:
    """torchvision's name of today for one of its older checkpoints, the oldest COCO_V1 among them."""
    if "_blocks." in name and name.count(".") == 4:
        stem, _, kind = name.rpartition(".")
        return f"{stem}.0.{kind}"
    if name.startswith("rpn.head.conv.") and name.count(".") == 3:
        return name.replace("rpn.head.conv.", "rpn.head.conv.0.0.")
    if name.startswith("roi_heads.mask_head.mask_fcn"):
        layer, _, kind = name.removeprefix("roi_heads.mask_head.mask_fcn").partition(".")
        return f"roi_heads.mask_head.{int(layer) - 1}.0.{kind}"
    return name


# Beginnings of the names of a segmentation network, as above. ``class_weights``, of the loss, are ours alone.
DILATED_FCN = (("backbone.", "backbone."), ("head.", "classifier."), ("auxiliary.", "aux_classifier."))


def segmenter_from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of ``DilatedFCN(ResNet(...))`` from one of torchvision's ``fcn_resnet50`` or ``fcn_resnet101``.

    Raises CheckpointError, naming it, for an entry that such a model does not have, or lacks.
    """
    table = [(theirs, own) for own, theirs in DILATED_FCN]
    ours = {_renamed(name, table, DILATED): value for name, value in state.items()}
    if "head.4.weight" not in ours:
        raise CheckpointError("classifier.4.weight is missing; every FCN on a dilated ResNet has it")
    return {"class_weights": torch.ones(len(ours["head.4.weight"])), **ours}


def segmenter_to_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of ``segmenter_from_torchvision``. Raises CheckpointError for a state of another network."""
    return {_renamed(name, DILATED_FCN, DILATED): state[name] for name in state if name != "class_weights"}


def _renamed(name: str, table: Iterable[tuple[str, str]], model: str) -> str:
    """A name with the first beginning that ``table`` has exchanged. Raises CheckpointError if it has none."""
    for old, new in table:
        if name.startswith(old):
            return new + name.removeprefix(old)
    raise CheckpointError(f"{name}: not an entry of {model}; weights of a backbone alone are its own `weights`")
