"""Translate settings and checkpoints of version 0.1.0 into today's, with one line in the log for each name.

The tables are in the other modules, one for each area: ``KEYS`` of the command line and files (without class_path and
init_args; each stands for all below it), ``CLASSES``, ``ARGUMENTS`` by the new name of their class, ``STATE_PREFIXES``
of the names in a task's state dict, and ``OBJECT_HOOKS``, functions for changes that no table expresses. The rest of
the package knows today's names only.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from detseg.compat import data, models, tasks, transforms
from detseg.compat.common import note
from detseg.compat.data import DATA_MODULES, data_module
from detseg.compat.models import ARGUMENTS, CLASSES, LOSSES
from detseg.compat.tasks import TASK_SETTINGS
from detseg.compat.transforms import LISTS, transform_list, transform_option

log = logging.getLogger(__name__)

FORMAT = 2  # of the metadata in a checkpoint; 0.1.0 wrote format 1

KEYS = tasks.KEYS | models.KEYS | data.KEYS
STATE_PREFIXES = tasks.STATE_PREFIXES | models.STATE_PREFIXES
# Called for every object of a configuration file or an old checkpoint, so they must leave today's arguments alone.
OBJECT_HOOKS = models.OBJECT_HOOKS | data.OBJECT_HOOKS | transforms.OBJECT_HOOKS
VALUES = data.VALUES | transforms.VALUES


def translate_key(key: str) -> str:
    """Return today's form of a dotted key."""
    for old, new in KEYS.items():
        if key == old or key.startswith(f"{old}."):
            note(old, new)
            key = new + key[len(old) :]
    return key


def translate_options(arguments: Sequence[str]) -> list[str]:
    """Return command-line arguments in today's form; options have their values as in ``--key=value``."""
    translated: list[str] = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if not option.startswith("--"):
            translated.append(argument)
            continue
        old = option.removesuffix("+")
        key = transform_option(translate_key(old[2:]))
        if key == "data" and value in DATA_MODULES:
            value, format = data_module(value)
            translated += [f"--data={value}", *([f"--data.format={format}"] if format else [])]
        else:
            value = VALUES.get(key, {}).get(value) or _class(value)
            translated.append(f"--{key}{option[len(old) :]}{equals}{value}")
    return translated


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
    if isinstance(metadata.get("metrics"), dict):
        metadata["metrics"] = {LOSSES.get(name, name): value for name, value in metadata["metrics"].items()}
    if "config" in metadata:
        metadata["config"] = translate_settings(metadata["config"])
    translated = {**checkpoint, "detseg": metadata}
    for key in ("state_dict", "current_model_state"):  # the second where the weights are averaged
        if isinstance(checkpoint.get(key), dict):
            translated[key] = _state(checkpoint[key])
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
            if cls in LISTS:
                return transform_list(cls, value.get(arguments, {}), lambda other, its: {name: other, arguments: its})
            if cls in DATA_MODULES:
                value[name], format = data_module(cls)
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
            note(f"{cls}({key}=...)", f"{cls}({new}=...)")
        renamed[new] = value
    if cls in OBJECT_HOOKS:
        return OBJECT_HOOKS[cls](renamed, lambda other, its: {name: other, arguments: its})
    return renamed


def _state(state: Mapping[str, Any]) -> dict[str, Any]:
    state = dict(state)
    for old, new in STATE_PREFIXES.items():
        state = {(new + key[len(old) :] if key.startswith(old) else key): value for key, value in state.items()}
    return state


def _class(text: str) -> str:
    """Return today's name of a class, bare if it has another name or module today; any other text stays as it is."""
    module, _, name = text.rpartition(".")
    if module and not re.fullmatch(r"detseg(\.\w+)*", module):
        return text
    if name in CLASSES or (module and name[:1].isupper() and not _has_module(module)):
        name = CLASSES.get(name, name)
        note(text, name)
        return name
    return text


@functools.cache
def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False
