"""Transforms: one class held the settings of all steps; now ``transforms`` is a list of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detseg.compat.common import Build, note
from detseg.compat.data import OBJECT_HOOKS as DATA_HOOKS

FLIP, AUGMENT = {"flip": "RandomHorizontalFlip.p"}, {"augment": "Albumentations.transforms"}
RESIZE = {"size": "Resize.size", "max_size": "Resize.max_size", "crop": "Resize.crop"}
SCALE_CROP = {"scale": "RandomScaleCrop.scale", "crop": "RandomScaleCrop.size"}
RESIZED_CROP = {"size": "RandomResizedCrop.size", "area": "RandomResizedCrop.scale"}
# By the class that held the settings: the steps in order, each with the arguments that it took over.
STEPS = {
    "Transforms": RESIZE | FLIP | AUGMENT,
    "MixingTransforms": RESIZE | {"mosaic": "Mosaic.p"} | FLIP | {"copy_paste": "CopyPaste.p"} | AUGMENT,
    "SegmentationTransforms": SCALE_CROP | FLIP | AUGMENT,
    "ClassificationDataModule": RESIZED_CROP | FLIP | AUGMENT,
}
LISTS = ("Transforms", "MixingTransforms", "SegmentationTransforms")  # classes that a list replaces
OPTIONAL = ("Mosaic", "CopyPaste", "Albumentations")  # steps that a zero or null left out
# Options of the command line alone: in a file, the arguments of today's transforms have the same keys.
LISTED = SCALE_CROP | RESIZE | FLIP | AUGMENT
UNLISTED = {"area": RESIZED_CROP["area"], **FLIP, **AUGMENT}  # without the size, which today's ShapeCrops has too
OPTIONS = {f"data.transforms.{old}": f"data.transforms.{new}" for old, new in LISTED.items()}
OPTIONS |= {f"data.{old}": f"data.transforms.{new}" for old, new in UNLISTED.items()}
VALUES = {
    "data.transforms": {
        "Transforms": "[Resize, RandomHorizontalFlip]",
        "SegmentationTransforms": "[RandomScaleCrop, RandomHorizontalFlip]",
    }
}


def transform_list(cls: str, settings: Mapping[str, Any], build: Build) -> list[dict[str, Any]]:
    """Return the list of transforms that a class of 0.1.0 stood for."""
    steps: dict[str, dict[str, Any]] = {}
    for old, new in STEPS[cls].items():
        step, _, argument = new.partition(".")
        if old in settings:
            note(f"{cls}({old}=...)", f"transforms: {step}({argument}=...)")
        if step not in OPTIONAL or settings.get(old):
            arguments = steps.setdefault(step, {})
            if old in settings:
                arguments[argument] = settings[old]
    if jitter := settings.get("jitter"):
        resize = {"size": 800, "max_size": 1333} | steps.pop("Resize")
        steps = {"LargeScaleJitter": {**resize, "scale": jitter}, **steps}
    return [build(step, init_args) for step, init_args in steps.items()]


def transform_option(key: str) -> str:
    """Return today's form of the dotted key of an option."""
    new = OPTIONS.get(key.replace(".init_args", ""), key)
    if new != key:
        note(key, new)
    return new


def _classification(init_args: dict[str, Any], build: Build) -> dict[str, Any]:
    settings = DATA_HOOKS["ClassificationDataModule"](init_args, build)
    name = "ClassificationDataModule"
    if old := {key: settings.pop(key) for key in STEPS[name].keys() & settings.keys()}:
        settings["transforms"] = transform_list(name, old, build)
    return settings


OBJECT_HOOKS = {"ClassificationDataModule": _classification}
