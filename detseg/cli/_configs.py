"""Where configuration files are found, and which line of which file set a key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import detseg
from detseg import data
from detseg.compat import translate_key, translate_options
from detseg.data import DetectionDataModule, SegmentationDataModule
from detseg.data.formats.layout import read_text
from detseg.errors import ConfigError

SUFFIXES = (".yaml", ".yml")
WRAPPERS = ("class_path", "init_args", "dict_kwargs")  # levels of a file that are not part of a key

# What a folder as data is, where it is not of the one class of its kind.
FOLDERS = {DetectionDataModule: "Folder", SegmentationDataModule: "FolderSegmentation"}

SETTINGS = ("--config", "-c", "--data", "--model", "--task", "--trainer")  # options that a file may set begin so


class Setting(NamedTuple):
    """One key of a configuration file."""

    key: str  # dotted, as on the command line
    file: Path
    line: int
    value: str  # as it is written; empty for a group of settings


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of an error message: the nearest of the ``known`` names, or all where none is near."""
    near = difflib.get_close_matches(name, known)
    return f"; did you mean {' or '.join(near)}?" if near else f"; there is {', '.join(known) or 'none'}"


def find_config(name: str) -> Path:
    """The file called ``name``: as a path, in ./configs, or among the configurations that come with detseg.

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
    """``arguments`` with every value that names a YAML file replaced by where that file is.

    Raises ConfigError for a file that is not there, or that does not hold settings.
    """
    arguments = translate_options(arguments)
    found = list(arguments)
    for position, _, value in _files(arguments):
        found[position] = arguments[position].removesuffix(value) + str(find_config(value))
    for _ in _settings(found):  # reads them all
        pass
    return found


def _with_folders(arguments: Sequence[str], kind: str) -> Iterator[str]:
    """``arguments`` with ``--data my/folder`` written out: the data is of this ``kind``, and that is its root."""
    option = ""
    for argument in arguments:
        name, _, value = argument.rpartition("=") if argument.startswith("--data=") else (option, "", argument)
        if name == "--data" and value not in data.__all__ and Path(value).is_dir():  # a class comes first
            yield from ([kind] if option == "--data" else [f"--data={kind}"])
            yield f"--data.root={value}"
        else:
            yield argument
        option = argument


def for_other_data(arguments: Sequence[str], base: type[Any]) -> list[str]:
    """``arguments``, changed so that a whole ``--data`` replaces what was set before of where the data lies.

    A folder as ``--data`` is one whose contents are found out, or what else has a root and the one class ``base``.

    What every data set has, such as the size of the images, stays as it was unless it is set again. That is what
    jsonargparse does when a setting passes from one class to another: here through ``base``, which all have in common.
    """
    replaced = []
    for argument in _with_folders(arguments, FOLDERS.get(base, base.__name__)):
        if argument.split("=")[0] == "--data":
            replaced.append(f"--data={base.__module__}.{base.__name__}")
        replaced.append(argument)
    return replaced


def class_path(key: str, arguments: Sequence[str]) -> str | None:
    """The name or path of the class that ``key`` is to be an object of, None if nobody says."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        option, equals, value = argument.partition("=")
        if option in (f"--{key}", f"--{key}.class_path"):
            return value if equals else following
    found = [setting.value for setting in _settings(arguments) if setting.key in (key, f"{key}.class_path")]
    return next(filter(None, reversed(found)), None)


def where(key: str, arguments: Sequence[str]) -> str:
    """Who set ``key``: " (command line)" or " (file, line 3)"; empty if nobody did."""
    for argument in arguments:
        if argument.split("=")[0].removesuffix("+") == f"--{key}":
            return " (command line)"
    found = [setting for setting in _settings(arguments) if setting.key == key]
    return f" ({found[-1].file}, line {found[-1].line})" if found else ""


def _settings(arguments: Sequence[str]) -> Iterator[Setting]:
    """Every key of the files that the arguments name."""
    for _, option, value in _files(arguments):
        key = option.lstrip("-")
        yield from _file_settings(Path(value), "" if key in ("config", "c") else key)


def _files(arguments: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Where the arguments name a configuration file: the position, the option and the file."""
    option = ""
    for position, argument in enumerate(arguments):
        left, equals, value = argument.rpartition("=")
        option = left if equals else option
        if value.endswith(SUFFIXES) and option.startswith(SETTINGS):
            yield position, option, value
        option = argument


def _file_settings(path: Path, key: str) -> Iterator[Setting]:
    if not path.is_file():
        return
    try:
        node = yaml.compose(read_text(path), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}, line {line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:  # a character that no text has
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: must hold settings by name, as in `model:`")
    yield from _node_settings(node, path, key)


def _node_settings(node: yaml.Node | None, path: Path, key: str) -> Iterator[Setting]:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for name, value in node.value:
            line = name.start_mark.line + 1
            if name.value in seen:  # YAML takes the last one, and says nothing
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
