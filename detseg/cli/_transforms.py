"""Options that set one argument in the list of transforms: ``--data.transforms.Resize.size 600``."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml
from jsonargparse import Namespace

from detseg.cli._configs import nearest
from detseg.configurable import to_class_paths, to_config
from detseg.errors import ConfigError

OPTION = re.compile(r"--data\.transforms\.(?P<cls>[A-Z]\w*)\.(?P<argument>\w+)(?:=(?P<value>.*))?", re.DOTALL)


class TransformOption(NamedTuple):
    """One option: the class of the transform, its argument, and the value as it is written."""

    cls: str
    argument: str
    value: str


def split_options(arguments: Sequence[str]) -> tuple[list[str], list[TransformOption]]:
    """Separate the options of single transforms from the other arguments. Raises ConfigError for a missing value."""
    others, options = [], []
    for argument in arguments:
        match = OPTION.fullmatch(argument)
        if not match:
            others.append(argument)
        elif match["value"] is None:
            raise ConfigError(f"{argument[2:]}: its value is missing")
        else:
            options.append(TransformOption(match["cls"], match["argument"], match["value"]))
    return others, options


def set_options(data: Namespace, options: Sequence[TransformOption]) -> str:
    """Return the list of transforms of a data set in JSON, with the options set.

    Raises ConfigError for a transform that is not in the list, and for an argument that it does not have.
    """
    transforms = data.init_args.get("transforms")
    if transforms is None:
        transforms = to_class_paths(to_config(_class(data.class_path).default_transforms()))
    steps: list[dict[str, Any]] = [step.as_dict() if isinstance(step, Namespace) else step for step in transforms]
    for option in options:
        chosen = [step for step in steps if step["class_path"].rpartition(".")[2] == option.cls]
        if not chosen:
            names = ", ".join(step["class_path"].rpartition(".")[2] for step in steps) or "empty"
            raise ConfigError(
                f"data.transforms.{option.cls}: is not in the list of transforms ({names}); "
                f"append it with `--data.transforms+ {option.cls}`, or set the list"
            )
        known = [*inspect.signature(_class(chosen[0]["class_path"])).parameters]
        if option.argument not in known:
            raise ConfigError(
                f"data.transforms.{option.cls}.{option.argument}: there is no such setting"
                f"{nearest(option.argument, known)}"
            )
        for step in chosen:
            step.setdefault("init_args", {})[option.argument] = yaml.safe_load(option.value)
    return json.dumps(steps)


def _class(path: str) -> Any:
    """Return the class of a path, which the parser has imported."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules[module], name)
