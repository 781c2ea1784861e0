"""Translate settings and checkpoints of version 0.1.0 into today's, with one line in the log for each name.

Each area adds its rows to the tables below, in a section of its own; a change that no table expresses is a function in
``OBJECT_HOOKS`` or ``STATE_HOOKS``. The rest of the package knows today's names only.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)

FORMAT = 2  # of the metadata in a checkpoint; 0.1.0 wrote format 1

Build = Callable[[str, dict[str, Any]], dict[str, Any]]  # makes an object of a class name and arguments
Hook = Callable[[dict[str, Any], Build], dict[str, Any]]

# Keys as on the command line (without class_path and init_args), applied in this order; each stands for all below it.
KEYS: dict[str, str] = {}
CLASSES = {"TwoFCHead": "TwoMLPHead", "Conv5Head": "Res5Head"}
# Arguments by the new name of their class.
ARGUMENTS: dict[str, dict[str, str]] = {}
# By the new name of a class: functions from the arguments of an object to its new arguments. They are called for
# every object of a configuration file or an old checkpoint, so they must leave today's arguments alone.
OBJECT_HOOKS: dict[str, Hook] = {}
# Beginnings of the names in a task's state dict, applied in this order.
STATE_PREFIXES: dict[str, str] = {}
# Functions from a state dict of 0.1.0 and the translated metadata to today's state dict.
STATE_HOOKS: list[Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]]] = []

# Tasks: `model` held the settings of the training and, below `network`, the model.
TASK_SETTINGS = {
    "optimizer": "optimizer.name",
    "schedule": "schedule.name",
    **{name: f"optimizer.{name}" for name in ("momentum", "weight_decay")},
    **{name: f"schedule.{name}" for name in ("milestones", "warmup_steps")},
    **{name: name for name in ("lr", "reference_batch", "backbone_lr_factor", "compile_loss")},
    **{name: name for name in ("class_weights", "features_gib")},
}
KEYS |= {"model.network": "model", **{f"model.{name}": f"task.{new}" for name, new in TASK_SETTINGS.items()}}
STATE_PREFIXES |= {"network.": "model."}

# Test-time augmentation
KEYS |= {"window": "crop_size"}

# Backbones, and the pyramid on one.
KEYS |= {"model.backbone.body": "model.backbone.backbone"}
ARGUMENTS |= {"FPN": {"body": "backbone"}, "MobileNetV3": {"entry": "return_stage_start"}}
STATE_PREFIXES |= {
    "model.backbone.body.": "model.backbone.backbone.",
    "model.backbone.inner.": "model.backbone.lateral_convs.",
    "model.backbone.outer.": "model.backbone.output_convs.",
}

# Detectors: `FasterRCNN` and its siblings took every number themselves; now their parts do.
KEYS |= {
    "model.head": "model.roi_heads.box_head",
    "model.anchor_sizes": "model.rpn.anchor_generator.sizes",
    "model.anchor_ratios": "model.rpn.anchor_generator.aspect_ratios",
    "model.rpn_depth": "model.rpn.head.num_convs",
    "model.rpn_candidates": "model.rpn.pre_nms_top_n",
    "model.proposals": "model.rpn.post_nms_top_n",
    "model.rpn_nms": "model.rpn.nms_threshold",
    "model.rpn_score_threshold": "model.rpn.score_threshold",
    "model.mask_channels": "model.roi_heads.mask_head.channels",
    "model.mask_norm": "model.roi_heads.mask_head.norm",
}
ARGUMENTS |= {
    "TwoMLPHead": {"size": "pool_size"},
    "ConvFCHead": {"size": "pool_size", "depth": "num_convs"},
    "RCNN": {"size": "crop_size", "batch": "crops_per_batch"},
}
STATE_PREFIXES |= {
    "model.rpn.conv.": "model.rpn.head.conv.0.",
    "model.rpn.deeper.0.": "model.rpn.head.conv.1.",
    "model.rpn.deeper.1.": "model.rpn.head.conv.2.",
    "model.rpn.objectness.": "model.rpn.head.cls_logits.",
    "model.rpn.deltas.": "model.rpn.head.bbox_pred.",
    "model.box_head.body.": "model.roi_heads.box_head.",
    "model.box_head.classes.": "model.roi_heads.box_predictor.cls_score.",
    "model.box_head.deltas.": "model.roi_heads.box_predictor.bbox_pred.",
    "model.mask_head.convs.": "model.roi_heads.mask_head.convs.",
    "model.mask_head.deconv.": "model.roi_heads.mask_head.conv5_mask.",
    "model.mask_head.logits.": "model.roi_heads.mask_head.mask_fcn_logits.",
    "model.classes.": "model.cls_score.",  # of R-CNN, as the next
    "model.deltas.": "model.bbox_pred.",
}


def _taken(settings: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Remove the old ``names`` from ``settings``, and return their values by the new ones."""
    taken = {new: settings.pop(old) for old, new in names.items() if old in settings}
    for old, new in names.items():
        if new in taken:
            _note(old, new)
    return taken


def _region_parts(
    settings: dict[str, Any], build: Build, samples: int, nms: float, min_bg_iou: float
) -> dict[str, Any]:
    """Build the parts of RoI heads that 0.1.0's ``settings`` change, with these defaults of their class."""
    parts = {}
    if thresholds := _taken(settings, {"iou": "fg_iou_threshold", "background_iou": "min_bg_iou"}):
        fg_iou_threshold = thresholds.get("fg_iou_threshold", 0.5)
        parts["matcher"] = build(
            "Matcher",
            {
                "fg_iou_threshold": fg_iou_threshold,
                "bg_iou_threshold": fg_iou_threshold,
                "allow_low_quality_matches": False,
                "min_bg_iou": thresholds.get("min_bg_iou", min_bg_iou),
            },
        )
    if sampling := _taken(settings, {"samples": "batch_size_per_image", "positive_fraction": "positive_fraction"}):
        defaults = {"batch_size_per_image": samples, "positive_fraction": 0.25}
        parts["sampler"] = build("BalancedSampler", defaults | sampling)
    names = {"nms": "nms_threshold", "score_threshold": "score_threshold"}
    names |= {"candidates": "topk_candidates", "detections": "detections_per_image"}
    if selection := _taken(settings, names):
        parts["postprocessor"] = build("Postprocessor", {"nms_threshold": nms, **selection})
    return parts


def _rpn(settings: dict[str, Any], build: Build) -> dict[str, Any]:
    """Build the arguments of an RPN that 0.1.0's ``settings`` change."""
    names = {"rpn_candidates": "pre_nms_top_n", "proposals": "post_nms_top_n"}
    names |= {"rpn_nms": "nms_threshold", "rpn_score_threshold": "score_threshold"}
    rpn = _taken(settings, names)
    if anchors := _taken(settings, {"anchor_sizes": "sizes", "anchor_ratios": "aspect_ratios"}):
        rpn["anchor_generator"] = build("AnchorGenerator", anchors)
    if head := _taken(settings, {"rpn_depth": "num_convs"}):
        rpn["head"] = build("RPNHead", head)
    if "rpn_iou" in settings:
        low, high = settings.pop("rpn_iou")
        thresholds = {"fg_iou_threshold": high, "bg_iou_threshold": low, "allow_low_quality_matches": True}
        rpn["matcher"] = build("Matcher", thresholds)
    sampling = {"rpn_samples": "batch_size_per_image", "rpn_positive_fraction": "positive_fraction"}
    if sampler := _taken(settings, sampling):
        defaults = {"batch_size_per_image": 256, "positive_fraction": 0.5}
        rpn["sampler"] = build("BalancedSampler", defaults | sampler)
    return rpn


def _two_stage(heads: str, samples: int, nms: float, min_bg_iou: float) -> Hook:
    """Return a hook that gives the arguments of a detector of 0.1.0 to its parts, the RoI ``heads`` among them."""

    def hook(init_args: dict[str, Any], build: Build) -> dict[str, Any]:
        settings = dict(init_args)
        rpn = _rpn(settings, build)
        roi_heads = _taken(settings, {"head": "box_head"})
        if "pooling" in settings:
            pooler = {"roi_align": "RoIAlign", "roi_pool": "RoIPool"}[settings.pop("pooling")]
            roi_heads["pooler"] = build(pooler, {})
        roi_heads |= _region_parts(settings, build, samples, nms, min_bg_iou)
        if mask := _taken(settings, {"mask_channels": "channels", "mask_norm": "norm"}):
            roi_heads["mask_head"] = build("MaskHead", mask)
        if rpn:
            settings["rpn"] = build("RPN", rpn)
        if roi_heads:
            settings["roi_heads"] = build(heads, roi_heads)
        return settings

    return hook


def _rcnn(init_args: dict[str, Any], build: Build) -> dict[str, Any]:
    settings = dict(init_args)
    parts = _region_parts(settings, build, samples=64, nms=0.3, min_bg_iou=0.0)
    return {**settings, **parts}


def _without_in_channels(init_args: dict[str, Any], build: Build) -> dict[str, Any]:
    return {name: value for name, value in init_args.items() if name != "in_channels"}  # follows from the backbone


OBJECT_HOOKS |= {
    "FasterRCNN": _two_stage("RoIHeads", samples=512, nms=0.5, min_bg_iou=0.0),
    "MaskRCNN": _two_stage("MaskRCNNHeads", samples=512, nms=0.5, min_bg_iou=0.0),
    "FastRCNN": _two_stage("FastRCNNHeads", samples=64, nms=0.3, min_bg_iou=0.1),
    "RCNN": _rcnn,
    "TwoMLPHead": _without_in_channels,
    "ConvFCHead": _without_in_channels,
}


# Data: one data module for each task; format and split are arguments.
DATA_MODULES: dict[str, tuple[str, str | None]] = {  # today's class and format
    "Folder": ("DetectionDataModule", None),
    "FolderSegmentation": ("SegmentationDataModule", None),
    "COCOSegmentation": ("SegmentationDataModule", "COCO"),
    "VOCSegmentation": ("SegmentationDataModule", "VOC"),
    "CamVid": ("SegmentationDataModule", "CamVid"),
    "CityscapesSegmentation": ("SegmentationDataModule", "Cityscapes"),
    "ImageFolders": ("ClassificationDataModule", None),
}
SPLIT_NAMES = {
    **{f"{split}_{kind}": split for split in ("train", "val") for kind in ("split", "file")},
    "val_fraction": "val_fraction",
}
KEYS |= {"data.workers": "data.num_workers"}
KEYS |= {f"data.{old}": f"data.split.{new}" for old, new in SPLIT_NAMES.items()}
VALUES = {"data.masks": {"sound": "valid"}}  # of options, by today's key


def _data(coco_format: str | None = None, dropped: Sequence[str] = (), split: Mapping[str, str] = SPLIT_NAMES) -> Hook:
    """Return a hook for a data module; ``coco_format`` holds the arguments of COCO's files, ``dropped`` has no use."""

    def hook(init_args: dict[str, Any], build: Build) -> dict[str, Any]:
        old = {*SPLIT_NAMES, "train_images", "val_images", "classes", "sbd", "labels", "names", "format"}
        settings = {
            key: value for key, value in init_args.items() if key not in dropped and not (key in old and value is None)
        }
        settings |= _taken(settings, {"workers": "num_workers"})
        if settings.get("masks") == "sound":
            settings["masks"] = "valid"
        if names := _taken(settings, dict(split)):
            settings["split"] = {**settings.get("split", {}), **names}
        coco: dict[str, Any] = _taken(settings, {"classes": "classes"}) if coco_format else {}
        if images := _taken(settings, {"train_images": "train", "val_images": "val"}):
            coco["images"] = images
        if coco and coco_format:
            settings["format"] = build(coco_format, coco)
        if sbd := _taken(settings, {"sbd": "sbd"}):
            settings["format"] = build("VocSemanticFormat", sbd)
        if yolo := _taken(settings, {"labels": "labels", "names": "names"}):
            settings["format"] = build("YoloFormat", yolo)
        return settings

    return hook


OBJECT_HOOKS |= {
    **dict.fromkeys(("DetectionDataModule", "COCO", "VOC"), _data("CocoFormat", split=SPLIT_NAMES | {"seed": "seed"})),
    "SegmentationDataModule": _data("CocoSemanticFormat", split=SPLIT_NAMES | {"seed": "seed"}),
    "ClassificationDataModule": _data(),
    "Shapes": _data(dropped=("sampling", "bad_samples")),
    "ShapesSegmentation": _data(dropped=("bad_samples",)),
    "ShapeCrops": _data(dropped=("area",)),
}


def translate_key(key: str) -> str:
    """Return today's form of a dotted key."""
    for old, new in KEYS.items():
        if key == old or key.startswith(f"{old}."):
            _note(old, new)
            key = new + key[len(old) :]
    return key


def translate_options(arguments: Sequence[str]) -> list[str]:
    """Return command-line arguments in today's form."""
    translated: list[str] = []
    key = ""
    for argument in arguments:
        if argument.startswith("--"):
            option, equals, value = argument[2:].partition("=")
            old = option.removesuffix("+")
            key = translate_key(old)
            translated.append(f"--{key}{option[len(old) :]}{equals}{_value(key, value)}")
        else:
            value = argument
            translated.append(_value(key, argument))
        if key == "data" and value in DATA_MODULES and (format := DATA_MODULES[value][1]):
            translated.append(f"--data.format={format}")
    return translated


def _value(key: str, value: str) -> str:
    """Return today's value of an option."""
    if key == "data" and value in DATA_MODULES:
        return _data_module(value)[0]
    return VALUES.get(key, {}).get(value) or _class(value)


def _data_module(name: str) -> tuple[str, str | None]:
    """Return today's class and format of a data module of 0.1.0."""
    new, format = DATA_MODULES[name]
    _note(name, f"{new} with format {format}" if format else new)
    return new, format


def translate_settings(settings: Any) -> Any:
    """Return the content of a configuration file, or a part of it, in today's form."""
    if isinstance(settings, dict):
        settings = _split_model(settings)
        if isinstance(data := settings.get("data"), str) and data in DATA_MODULES:
            settings = {**settings, "data": {"class_path": data, "init_args": {}}}
    return _objects(settings, "class_path", "init_args")


def translate_checkpoint(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a checkpoint in today's form: its metadata and the names in its state dict."""
    metadata = checkpoint.get("detseg")
    if not isinstance(metadata, dict) or metadata.get("format") != 1:
        return checkpoint
    log.info("a checkpoint of detseg 0.1.0: its names are translated into those of this version")
    metadata = {("model" if key == "network" else key): value for key, value in metadata.items()} | {"format": FORMAT}
    for key in {"model", "data"} & metadata.keys():
        metadata[key] = _objects(_init_args(metadata[key]), "class", "init_args")
    if "config" in metadata:
        metadata["config"] = translate_settings(metadata["config"])
    translated = {**checkpoint, "detseg": metadata}
    for key in ("state_dict", "current_model_state"):  # the second where the weights are averaged
        if isinstance(checkpoint.get(key), dict):
            translated[key] = _state(checkpoint[key], metadata)
    return translated


def _split_model(settings: dict[str, Any]) -> dict[str, Any]:
    """Move the settings of the training from ``model`` to ``task``, and ``model.network`` to ``model``."""
    model = settings.get("model")
    if not isinstance(model, dict) or not {"network", *TASK_SETTINGS} & model.keys():
        return settings
    settings = copy.deepcopy({key: value for key, value in settings.items() if key != "model"})
    for key, value in model.items():
        *path, last = translate_key(f"model.{key}").split(".")
        place = settings
        for name in path:
            place = place.setdefault(name, {})
        place[last] = value
    return settings


def _init_args(value: Any) -> Any:
    """Rename the key of the arguments of every described object, ``arguments`` in 0.1.0."""
    if isinstance(value, dict):
        value = {key: _init_args(item) for key, item in value.items()}
        if set(value) == {"class", "arguments"}:
            return {"class": value["class"], "init_args": value["arguments"]}
        return value
    return [_init_args(item) for item in value] if isinstance(value, (list, tuple)) else value


def _objects(value: Any, name: str, arguments: str) -> Any:
    """Rename classes and arguments in a description whose objects are ``{name: class, arguments: {...}}``."""
    if isinstance(value, dict):
        value = {key: _objects(item, name, arguments) for key, item in value.items()}
        if isinstance(value.get(name), str) and isinstance(value.get(arguments, {}), dict):
            cls = value[name].rpartition(".")[2]
            if cls in DATA_MODULES:
                value[name], format = _data_module(cls)
                value[arguments] = ({"format": format} if format else {}) | value.get(arguments, {})
            if arguments in value:
                cls = value[name].rpartition(".")[2]
                value[arguments] = _arguments(cls, value[arguments], name, arguments)
        return value
    if isinstance(value, (list, tuple)):
        return [_objects(item, name, arguments) for item in value]
    return _class(value) if isinstance(value, str) else value


def _arguments(cls: str, given: dict[str, Any], name: str, arguments: str) -> dict[str, Any]:
    renamed = {}
    for key, value in given.items():
        new = ARGUMENTS.get(cls, {}).get(key, key)
        if new != key:
            _note(f"{cls}({key}=...)", f"{cls}({new}=...)")
        renamed[new] = value
    if cls in OBJECT_HOOKS:
        return OBJECT_HOOKS[cls](renamed, lambda other, its: {name: other, arguments: its})
    return renamed


def _state(state: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    state = dict(state)
    for old, new in STATE_PREFIXES.items():
        state = {(new + key[len(old) :] if key.startswith(old) else key): value for key, value in state.items()}
    for hook in STATE_HOOKS:
        state = hook(state, metadata)
    return state


def _class(text: str) -> str:
    """Return today's name of a class, bare if it has another name or module today; any other text stays as it is."""
    module, _, name = text.rpartition(".")
    if module and not re.fullmatch(r"detseg(\.\w+)*", module):
        return text
    if name in CLASSES or (module and name[:1].isupper() and not _has_module(module)):
        name = CLASSES.get(name, name)
        _note(text, name)
        return name
    return text


@functools.cache
def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


@functools.cache  # once for each name
def _note(old: str, new: str) -> None:
    log.info("%s is called %s in this version of detseg; change it where you set it", old, new)
