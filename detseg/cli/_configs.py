"""Find configuration files, and the file and line that set a key."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import detseg
from detseg import data
from detseg.compat import translate_key, translate_options
from detseg.configurable import subclasses
from detseg.data.formats.layout import read_text
from detseg.errors import ConfigError

SOURCE = {"format": "auto", "split": "null"}  # defaults of arguments that belong to a root
SUFFIXES = (".yaml", ".yml")
WRAPPERS = ("class_path", "init_args", "dict_kwargs")  # levels of a file that are not part of a key

SETTINGS = ("--config", "-c", "--data", "--model", "--task", "--trainer")  # options that a file may set begin so


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
    """Return ``arguments`` with the path of every YAML file that they name, and options of 0.1.0 translated.

    Raises ConfigError for a file that does not exist or does not hold settings.
    """
    resolved = translate_options(arguments)
    for position, _, value in _files(resolved):
        resolved[position] = resolved[position].removesuffix(value) + str(find_config(value))
    for _ in _settings(resolved):  # checks that all can be read
        pass
    return resolved


def _with_folders(arguments: Sequence[str], cls: str) -> Iterator[str]:
    """Yield ``arguments`` with ``--data my/folder`` written out as a class and its root."""
    option = ""
    for argument in arguments:
        name, _, value = argument.rpartition("=") if argument.startswith("--data=") else (option, "", argument)
        if name == "--data" and value not in data.__all__ and Path(value).is_dir():  # a class comes first
            yield from ([cls] if option == "--data" else [f"--data={cls}"])
            yield f"--data.root={value}"
        else:
            yield argument
        option = argument


def for_other_data(arguments: Sequence[str], base: type[Any]) -> list[str]:
    """Return ``arguments`` changed so that ``--data`` replaces the data set of a configuration as a whole.

    ``--data`` may be a folder, whose format is detected. Settings that all data sets share, such as the image size,
    are kept unless they are set again: jsonargparse keeps the arguments that two classes have in common, and a step by
    ``base`` in between leaves only those.
    """
    known = inspect.signature(base).parameters
    resets = [f"--data={base.__module__}.{base.__name__}"]
    resets += [f"--data.{key}={value}" for key, value in SOURCE.items() if key in known]
    replaced: list[str] = []
    for argument in _with_roots([*_with_folders(arguments, base.__name__)], base):
        replaced += [*(resets if argument.split("=")[0] == "--data" else []), argument]
    return [*_with_resets(replaced, resets)]


def _with_roots(arguments: Sequence[str], base: type[Any]) -> Iterator[str]:
    """Yield ``arguments`` with the default root of each class that ``--data`` names: it keeps no earlier root.

    Raises ConfigError for a class without a default, if no root follows.
    """
    known = {cls.__name__: inspect.signature(cls).parameters for cls in (base, *subclasses(base))}
    option = ""
    for position, argument in enumerate(arguments):
        yield argument
        name = argument.removeprefix("--data=") if option != "--data" else argument
        if (option == "--data" or argument.startswith("--data=")) and "root" in known.get(name.rpartition(".")[2], ()):
            root = known[name.rpartition(".")[2]]["root"].default
            if root is not inspect.Parameter.empty:
                yield f"--data.root={root}"
            elif not any(following.startswith("--data.root") for following in arguments[position + 1 :]):
                raise ConfigError("data (command line): root must be set")
        option = argument


def _with_resets(arguments: Sequence[str], resets: Sequence[str]) -> Iterator[str]:
    """Yield ``arguments`` with ``resets`` before each file that replaces the class of the data of an earlier file."""
    places = set()
    replaces = False
    for position, option, value in _files(arguments):
        if option in ("--config", "-c"):
            keys = {setting.key for setting in _file_settings(Path(value), "")}
            if replaces and "data.class_path" in keys:
                places.add(position if "=" in arguments[position] else position - 1)
            replaces = replaces or "data.class_path" in keys
    for position, argument in enumerate(arguments):
        if position in places:
            yield from resets
        yield argument


def class_path(key: str, arguments: Sequence[str]) -> str | None:
    """Return the name or dotted path of the class that ``key`` is set to, None if it is not set."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        option, equals, value = argument.partition("=")
        if option in (f"--{key}", f"--{key}.class_path"):
            return value if equals else following
    values = [setting.value for setting in _settings(arguments) if setting.key in (key, f"{key}.class_path")]
    return next(filter(None, reversed(values)), None)


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
        yield from _file_settings(Path(value), "" if key in ("config", "c") else key)


def _files(arguments: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Yield the position, the option and the file of each argument that names a configuration file."""
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
