"""Exchange of weights with torchvision's detectors and segmenters.

The networks are identical; tensor names and the layout of the classes differ. torchvision's background is class 0 of
the softmax, here it is the last. torchvision's unused box and mask outputs of the background do not exist here, and are
exported as zeros. Its COCO weights have 91 labels, the category ids, 11 of them unused; here there are the 80 classes.
"""

from __future__ import annotations

import hashlib
import logging
import re
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

# Prefixes of tensor names, ours and torchvision's; the first that matches is exchanged, the rest of the name stays.
PREFIXES = (
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
    *((f"backbone.{level}.", f"backbone.fpn.extra_blocks.{level}.") for level in ("p6", "p7")),  # of RetinaNet
    ("head.", "head."),
)

DETECTOR = "one of torchvision's Faster R-CNNs, Mask R-CNNs or RetinaNets with a feature pyramid"  # for messages
DILATED = "an FCN on a dilated ResNet"

SOFTMAX = "roi_heads.box_predictor.cls_score."  # the layer with a row for the background
SIGMOIDS = "head.classification_head.cls_logits."  # of RetinaNet, anchor by anchor instead of class by class
ROWS_PER_CLASS = {
    SOFTMAX: 1,
    "roi_heads.box_predictor.bbox_pred.": 4,
    "roi_heads.mask_head.mask_fcn_logits.": 1,
    SIGMOIDS: 9,  # anchors of a cell
}

# Published detectors, and the epsilon of their frozen batch norm if it differs from the backbone's. The oldest were
# trained when torchvision used zero, MobileNet's backbone with PyTorch's default.
PUBLISHED: dict[str, float | None] = {
    "fasterrcnn_resnet50_fpn": 0.0,
    "fasterrcnn_resnet50_fpn_v2": None,
    "fasterrcnn_mobilenet_v3_large_fpn": 1e-5,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 1e-5,
    "maskrcnn_resnet50_fpn": 0.0,
    "maskrcnn_resnet50_fpn_v2": None,
    "retinanet_resnet50_fpn": 0.0,
    "retinanet_resnet50_fpn_v2": None,
}

_categories: list[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
COCO = {name: label for label, name in enumerate(_categories) if name not in ("__background__", "N/A")}
"""COCO's 80 classes in order, with torchvision's label of each."""

UNUSED_BIAS = -1e4  # of a label without a class: its probability is zero, even in half precision


class Pretrained(NamedTuple):
    """Class-dependent weights, kept until the class names of the training are known."""

    source: str
    classes: tuple[str, ...]  # empty if the file does not name them
    class_weights: dict[str, Tensor]  # of the layers that depend on the classes
    random: dict[str, Tensor]  # initial values of these layers


def from_torchvision(state: Mapping[str, Tensor], labels: Sequence[int] | None = None) -> dict[str, Tensor]:
    """Convert the state dict of a torchvision detector with the same structure.

    ``labels`` are torchvision's labels of the classes, in the order of the result; by default all.

    Raises CheckpointError, naming the tensor, for a name that such a model does not have.
    """
    converted = {}
    for name, value in state.items():
        new = _renamed(_current(name), ((theirs, ours) for ours, theirs in PREFIXES), DETECTOR)
        if _rows_per_class(new):
            of_label = _by_class(new, value)
            chosen = [*(labels or range(1, len(of_label))), *([0] if new.startswith(SOFTMAX) else [])]
            value = _flat(new, of_label[chosen])
        converted[new] = value
    return converted


def to_torchvision(state: Mapping[str, Tensor], labels: Sequence[int] | None = None) -> dict[str, Tensor]:
    """Convert a state dict into torchvision's; ``labels`` are the classes' labels there, by default 1, 2 and so on.

    Labels between them without a class get the probability zero.
    """
    theirs = {}
    for name, value in state.items():
        if _rows_per_class(name):
            of_class = _by_class(name, value)
            softmax = name.startswith(SOFTMAX)
            chosen = labels or range(1, len(of_class) + (not softmax))
            fill = UNUSED_BIAS if name in (f"{SOFTMAX}bias", f"{SIGMOIDS}bias") else 0
            value = value.new_full((max(chosen) + 1, *of_class.shape[1:]), fill)
            value[[*chosen, *([0] if softmax else [])]] = of_class
            value = _flat(name, value)
        theirs[_renamed(name, PREFIXES, DETECTOR)] = value
    return theirs


def structures(state: Iterable[str]) -> list[str]:
    """List torchvision's published detectors with the tensor names in ``state``, which are torchvision's."""
    names = set(map(_current, state))
    families = {"roi_heads.mask_head.": "maskrcnn", "head.": "retinanet", "": "fasterrcnn"}
    kind = next(kind for part, kind in families.items() if any(name.startswith(part) for name in names | {""}))
    if "backbone.body.conv1.weight" in names:
        second = {"roi_heads.box_head.5.weight", "head.classification_head.conv.0.1.weight"} & names
        return [f"{kind}_resnet50_fpn{'_v2' if second else ''}"]
    if "backbone.body.1.block.0.0.weight" in names and kind == "fasterrcnn":
        return ["fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"]
    return []


def num_labels(state: Mapping[str, Tensor]) -> int:
    """Return the number of labels, with the background, of a detector's ``state`` in torchvision; 0 for any other."""
    for layer in (SOFTMAX, SIGMOIDS):
        if f"{layer}bias" in state:
            return len(state[f"{layer}bias"]) // ROWS_PER_CLASS[layer]
    return 0


def published(path: str | Path) -> str | None:
    """Identify the published detector whose COCO weights a file contains, by its hash; None for any other file."""
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
    """Return the epsilon of batch norm with which torchvision's ``state`` was trained; None for the backbone's default.

    ``published`` is the name of the detector if these are its COCO weights.
    """
    if published is not None:
        return PUBLISHED[published]
    names = structures(state)
    return PUBLISHED[names[0]] if len(names) > 1 else None  # an own ResNet uses today's default of torchvision


def load_weights(model: nn.Module, weights: str | None) -> None:
    """Load ``weights`` of a whole detector, trained on any classes, into ``model``.

    ``weights`` is ``torchvision:COCO_V1`` for torchvision's detector with the structure of ``model``, or
    ``torchvision:NAME:COCO_V1`` for the detector of this name (both downloaded, with their hash checked); or the path
    of a state dict of such a detector, of a checkpoint, or of a published folder; or None, which does nothing.

    Layers that depend on the classes are copied if there are as many classes. ``match_classes`` copies them by class
    name, once these are known.

    Raises CheckpointError, naming weights and tensors, if they are unreadable or of another network.
    """
    model.pretrained = None  # type: ignore[assignment]
    if weights is None or weights == WEIGHTS_IN_CHECKPOINT:
        return
    state, classes, eps = _read(model, weights)
    expected = model.state_dict()
    if mismatch := state_dict_mismatch(state, expected, shape=_class_shape):
        raise CheckpointError(f"{weights}: not weights of this {type(model).__name__}: {mismatch}")
    class_weights = {name: value for name, value in state.items() if _rows_per_class(name)}
    random = {name: expected[name].clone() for name in class_weights}
    fitting = {name for name in state if name in expected and expected[name].shape == state[name].shape}
    model.load_state_dict({name: state[name] for name in fitting}, strict=False)
    if eps is not None:
        getattr(model.backbone, "backbone", model.backbone).set_eps(eps)  # type: ignore[operator, union-attr]
    model.pretrained = Pretrained(weights, classes, class_weights, random)  # type: ignore[assignment]


@torch.no_grad()
def match_classes(model: nn.Module, classes: Sequence[str]) -> None:
    """Copy the pretrained weights of the last layers for each of ``classes`` that they contain by name.

    The others begin at random, which is logged with the names of the layers. A second call, or a call without loaded
    weights, does nothing.
    """
    pretrained: Pretrained | None = getattr(model, "pretrained", None)
    if pretrained is None:
        return
    model.pretrained = None  # type: ignore[assignment]
    source, pretrained_classes, class_weights, random = pretrained
    layers = ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in class_weights))
    if not pretrained_classes:
        if all(class_weights[name].shape == random[name].shape for name in class_weights):
            log.info("%s: %s copied in order, because it does not name its classes", source, layers)
        else:
            log.info("%s: %s begin at random: it has another number of classes", source, layers)
        return
    common = [name for name in classes if name in pretrained_classes]
    labels, pretrained_labels = ([names.index(name) for name in common] for names in (classes, pretrained_classes))
    state_dict = model.state_dict()
    for name, value in class_weights.items():
        new, old = (_by_class(name, tensor) for tensor in (random[name], value))
        new[labels] = old[pretrained_labels].to(new)
        if common and name.startswith(SOFTMAX):
            new[-1] = old[-1].to(new)
        state_dict[name].copy_(_flat(name, new))
    missing = [name for name in classes if name not in pretrained_classes]
    if not common:
        log.info("%s: %s begin at random: it has none of these classes", source, layers)
    elif missing:
        log.info("%s: %s begin at random for the classes %s, which it lacks", source, layers, ", ".join(missing))
    else:
        log.info("%s: %s copied: it has all %d classes", source, layers, len(classes))


def _read(model: nn.Module, weights: str) -> tuple[dict[str, Tensor], tuple[str, ...], float | None]:
    """Read ``weights``: the state dict under our names, the class names if known, and batch norm's epsilon."""
    name: str | None
    published_by_name = weights.startswith("torchvision:")
    content = {} if published_by_name else read_weights(weights)
    try:
        if "detseg" in content:
            return _read_checkpoint(content)
        name, state = _fetch(model, *weights.split(":")[1:]) if published_by_name else (published(weights), content)
        coco = num_labels(state) == len(_categories)
        if coco and name is None:
            log.info("%s: assuming COCO's classes, because it has %d labels", weights, len(_categories))
        ours = from_torchvision(state, list(COCO.values()) if coco else None)
    except CheckpointError as error:
        raise CheckpointError(f"{weights}: {error}") from error
    return ours, tuple(COCO) if coco else (), epsilon(state, name)


def _read_checkpoint(content: dict[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...], float | None]:
    try:
        metadata = content["detseg"]
        state = model_state_dict(content)
        backbone = metadata["model"]["init_args"]["backbone"]
        backbone = backbone["init_args"].get("backbone", backbone)  # the one below a pyramid
        return state, tuple(map(str, metadata["classes"])), backbone["init_args"].get("eps")
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError("not the checkpoint of a detector") from error


def _fetch(model: nn.Module, *parts: str) -> tuple[str, dict[str, Tensor]]:
    """Download the weights ``[NAME:]VERSION``: the detector's name and its state dict."""
    *named, version = parts
    names = named or structures(to_torchvision(model.state_dict()))
    if len(names) != 1 or names[0] not in PUBLISHED:
        possible = [f"torchvision:{name}:{version}" for name in (names if len(names) > 1 else PUBLISHED)]
        hint = "name one of them" if names else "none of these has the structure of this model"
        raise CheckpointError(f"torchvision has {', '.join(possible)}; {hint}")
    choices = torchvision.models.get_model_weights(names[0])
    if version not in choices.__members__:
        raise CheckpointError(f"torchvision has {', '.join(known.name for known in choices)} of {names[0]}")
    return names[0], fetch(choices[version])


def _class_shape(name: str, value: Tensor) -> tuple[int, ...]:
    """Return the shape of a tensor, without the dimension that depends on the number of classes."""
    return tuple(value.shape[1:] if _rows_per_class(name) else value.shape)


def _by_class(name: str, value: Tensor) -> Tensor:
    """Reshape the tensor called ``name`` from (K * rows, ...) to (K, rows, ...)."""
    count, rest = _rows_per_class(name), value.shape[1:]
    if name.startswith(SIGMOIDS):
        return value.view(count, -1, *rest).transpose(0, 1)
    return value.view(-1, count, *rest)


def _flat(name: str, by_class: Tensor) -> Tensor:
    """Undo ``_by_class``."""
    return (by_class.transpose(0, 1) if name.startswith(SIGMOIDS) else by_class).flatten(0, 1)


def _rows_per_class(name: str) -> int:
    """Return the number of rows of each class in the tensor ``name``; 0 if it does not depend on the classes."""
    return next((count for layer, count in ROWS_PER_CLASS.items() if name.startswith(layer)), 0)


def _current(name: str) -> str:
    """Translate a tensor name of torchvision's older checkpoints, such as COCO_V1, into its current one."""
    if re.search(r"\.(inner|layer)_blocks\.", name) and name.count(".") == 4:
        stem, _, kind = name.rpartition(".")
        return f"{stem}.0.{kind}"
    if name.startswith("rpn.head.conv.") and name.count(".") == 3:
        return name.replace("rpn.head.conv.", "rpn.head.conv.0.0.")
    if retina := re.fullmatch(r"(head\.\w+\.conv)\.(\d+)\.(weight|bias)", name):  # ReLUs counted too
        return f"{retina[1]}.{int(retina[2]) // 2}.0.{retina[3]}"
    if name.startswith("roi_heads.mask_head.mask_fcn"):
        layer, _, kind = name.removeprefix("roi_heads.mask_head.mask_fcn").partition(".")
        return f"roi_heads.mask_head.{int(layer) - 1}.0.{kind}"
    return name


# Prefixes of tensor names of a segmenter, as above. torchvision has no ``class_weights``, those of the loss.
DILATED_FCN = (("backbone.", "backbone."), ("head.", "classifier."), ("auxiliary.", "aux_classifier."))


def segmenter_from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of torchvision's ``fcn_resnet50`` or ``fcn_resnet101`` for ``DilatedFCN(ResNet(...))``.

    Raises CheckpointError, naming the tensor, if one is missing or unexpected.
    """
    prefixes = [(theirs, ours) for ours, theirs in DILATED_FCN]
    converted = {_renamed(name, prefixes, DILATED): value for name, value in state.items()}
    if "head.4.weight" not in converted:
        raise CheckpointError("classifier.4.weight is missing; every FCN on a dilated ResNet has it")
    return {"class_weights": torch.ones(len(converted["head.4.weight"])), **converted}


def segmenter_to_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict into torchvision's. Raises CheckpointError for that of another model."""
    return {_renamed(name, DILATED_FCN, DILATED): state[name] for name in state if name != "class_weights"}


def _renamed(name: str, prefixes: Iterable[tuple[str, str]], model: str) -> str:
    """Exchange the first of ``prefixes`` that the name begins with. Raises CheckpointError if none matches."""
    for old, new in prefixes:
        if name.startswith(old):
            return new + name.removeprefix(old)
    raise CheckpointError(f"{name}: not a tensor of {model}; pass a backbone's weights as its own `weights`")
