"""Find configuration files, and the file and line that set a key."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import detseg
from detseg import data
from detseg.compat import translate_key, translate_options
from detseg.configurable import subclasses
from detseg.data.formats.format_detection import find_folder
from detseg.data.formats.layout import read_text
from detseg.data.formats.yolo_settings import is_yolo_settings
from detseg.errors import ConfigError

SOURCE = {"format": "auto", "split": "null"}  # defaults of arguments that belong to a root
SUFFIXES = (".yaml", ".yml")
WRAPPERS = ("class_path", "init_args", "dict_kwargs")  # levels of a file that are not part of a key

SETTINGS = ("--config", "--data", "--model", "--task", "--trainer")  # options that a file may set begin so


class Setting(NamedTuple):
    """One key of a configuration file."""

    key: str  # dotted, as on the command line
    file: Path
    line: int
    value: str  # as it is written; empty for a group of settings


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the end of an error message: the nearest of the ``known`` names, or all if none is near."""
    near = difflib.get_close_matches(name, known)
    return f"; did you mean {' or '.join(near)}?" if near else f"; there is {', '.join(known) or 'none'}"


def find_config(name: str) -> Path:
    """Return the file called ``name``: a path, a file in ./configs, or one of the configurations of detseg.

    Raises ConfigError, with the nearest names, if there is none.
    """
    package = Path(detseg.__file__).parent
    folders = [Path("configs"), package.parent / "configs", package / "configs"]
    for path in (Path(name), *(folder / name for folder in folders)):
        if path.is_file():
            return path
    known = {path.relative_to(folder).as_posix() for folder in folders for path in folder.rglob("*.yaml")}
    raise ConfigError(f"{name}: no such file, neither here nor in configs/{nearest(name, sorted(known))}")


def find_configs(arguments: Sequence[str]) -> list[str]:
    """Return ``arguments`` in one form: options as ``--key=value`` with today's keys, and YAML files by their paths.

    Raises ConfigError for a file that does not exist or does not hold settings.
    """
    resolved = translate_options(_joined(arguments))
    for position, option, value in _files(resolved):
        resolved[position] = f"{option}={find_config(value)}"
    for _ in _settings(resolved):  # checks that all can be read
        pass
    return resolved


def _joined(arguments: Sequence[str]) -> list[str]:
    """Write each option and the value that follows it as one argument."""
    joined: list[str] = []
    for argument in arguments:
        option = joined[-1] if joined else ""
        if option.startswith("--") and "=" not in option and option != "--help" and not argument.startswith("--"):
            joined[-1] = f"{option}={argument}"
        else:
            joined.append("--config" if argument == "-c" else argument)
    return joined


def is_data(path: Path) -> bool:
    """Tell if a path is a data set, or a file of one, and no configuration."""
    return path.is_dir() or (path.is_file() and (not path.name.endswith(SUFFIXES) or is_yolo_settings(path)))


def for_other_data(arguments: Sequence[str], base: type[Any]) -> list[str]:
    """Return ``arguments`` of ``find_configs`` changed so that ``--data`` replaces the data of a file as a whole.

    ``--data`` may be a folder, whose format is detected, or its data.yaml. A class keeps no earlier root. Settings that
    all data sets share, such as the image size, are kept unless they are set again: jsonargparse keeps the arguments
    that two classes have in common, and a step by ``base`` in between leaves only those.

    Raises ConfigError for a class that has no default root, if no root follows.
    """
    classes: dict[str, Mapping[str, inspect.Parameter]] = {
        cls.__name__: inspect.signature(cls).parameters for cls in (base, *subclasses(base))
    }
    resets = [f"--data={base.__module__}.{base.__name__}"]
    resets += [f"--data.{key}={value}" for key, value in SOURCE.items() if key in classes[base.__name__]]
    replaced: list[str] = []
    has_data = False  # from a file
    for position, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        following: list[str] = []
        if option == "--config" and "data.class_path" in {one.key for one in _file_settings(Path(value), "")}:
            replaced += resets if has_data else []
            has_data = True
        elif option == "--data":
            replaced += resets
            if value not in data.__all__ and is_data(Path(value)):  # a class comes first
                argument, following = f"--data={base.__name__}", [f"--data.root={find_folder(Path(value))}"]
            elif root := classes.get(value.rpartition(".")[2], {}).get("root"):
                if root.default is not inspect.Parameter.empty:
                    following = [f"--data.root={root.default}"]
                elif not any(one.startswith("--data.root=") for one in arguments[position:]):
                    raise ConfigError("data (command line): root must be set")
        replaced += [argument, *following]
    return replaced


def value_of(key: str, arguments: Sequence[str]) -> str | None:
    """Return the first value of an option, None if it is not set."""
    return next((one.partition("=")[2] for one in arguments if one.startswith(f"--{key}=")), None)


def class_path(key: str, arguments: Sequence[str]) -> str | None:
    """Return the name or dotted path of the class that ``key`` is set to, None if it is not set."""
    settings = (setting for setting in _settings(arguments) if setting.key in (key, f"{key}.class_path"))
    of_files = [setting.value for setting in settings if setting.value]
    return value_of(key, arguments) or value_of(f"{key}.class_path", arguments) or next(reversed(of_files), None)


def where(key: str, arguments: Sequence[str]) -> str:
    """Return the place that set ``key``: " (command line)" or " (file, line 3)"; empty if it is not set."""
    for argument in arguments:
        if argument.split("=")[0].removesuffix("+") == f"--{key}":
            return " (command line)"
    settings = [setting for setting in _settings(arguments) if setting.key == key]
    return f" ({settings[-1].file}, line {settings[-1].line})" if settings else ""


def _settings(arguments: Sequence[str]) -> Iterator[Setting]:
    """Yield every key of the files that the arguments name."""
    for _, option, value in _files(arguments):
        key = option.lstrip("-")
        yield from _file_settings(Path(value), "" if key == "config" else key)


def _files(arguments: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Yield the position, the option and the file of each argument that names a configuration file."""
    for position, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        if value.endswith(SUFFIXES) and option.startswith(SETTINGS):
            yield position, option, value


def _file_settings(path: Path, key: str) -> Iterator[Setting]:
    if not path.is_file():
        return
    try:
        node = yaml.compose(read_text(path), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}, line {line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: must hold settings by name, as in `model:`")
    yield from _node_settings(node, path, key)


def _node_settings(node: yaml.Node | None, path: Path, key: str) -> Iterator[Setting]:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for name, value in node.value:
            line = name.start_mark.line + 1
            if name.value in seen:  # YAML would use the last one silently
                raise ConfigError(f"{path}, line {line}: {name.value} is set twice")
            seen.add(name.value)
            inner = key
            text = value.value if isinstance(value, yaml.ScalarNode) else ""
            if name.value not in WRAPPERS:
                inner = f"{key}.{name.value}".removeprefix(".")
                yield Setting(translate_key(inner), path, line, text)
            elif name.value == "class_path":
                yield Setting(f"{translate_key(key)}.class_path", path, line, text)
            yield from _node_settings(value, path, inner)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _node_settings(value, path, key)
    elif isinstance(node, yaml.ScalarNode) and node.value.endswith(SUFFIXES):
        inner = path.parent / node.value
        if not inner.is_file() and "." not in key:
            line = node.start_mark.line + 1
            raise ConfigError(f"{key} ({path}, line {line}): there is no file {inner}")
        yield from _file_settings(inner, key)
