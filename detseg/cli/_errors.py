"""What jsonargparse means, in words for people.

Its messages are trees of indented lines. A line that names a setting or a class opens a level, the others give reasons.
The most telling reason is said again with the key, the file and line where it stands, and the nearest valid names.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import sys
import typing
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader

from detseg.cli._configs import nearest, where
from detseg.compat import translate_settings
from detseg.configurable import subclasses
from detseg.errors import ConfigError, DetsegError

KEY = re.compile(r'Parser key "([^"]+)"')
CLASS = re.compile(r"Problem with given class_path '([^']+)'")

# What a line says, the most telling first; a group is what it says it about.
REASONS = {
    "unknown": re.compile(r"(?:Group '([^']+)' does not accept o|O)ption '([^']+)'|unrecognized arguments: --([^ =]+)"),
    "stray": re.compile(r"unrecognized arguments: (.+)"),
    "value": re.compile(r"argument (?:-c/)?--(\S+): expected"),
    "required": re.compile(r"the following arguments are required: (.+)"),
    "file": re.compile(r"Expected a path but (\S+\.ya?ml) |Unable to load config '([^']+)'"),
    "class": re.compile(r"Expected a dot import path string: (.+)|Unexpected import path format: (.+)"),
    "module": re.compile(r"(No module named '[^']+'|cannot import name '[^']+'|has no attribute '[^']+')"),
    "abstract": re.compile(r"instantiatable class, but \S+ is (abstract)"),
    "not a class": re.compile(r"Not a valid subclass of (\w+)"),
    "type": re.compile(r"Expected an? (?:<class ')?(.+?)(?:'>)?(?:\. Got value: .*)?$"),
}
GIVEN = re.compile(r"Got value: (.+)|Given value: (.+)")
WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "tuple": "a list",
    "collections.abc.Sequence": "a list",
    "NoneType": "null",
}


class Fault(NamedTuple):
    """A reason, what it is about, and the setting that it was given for."""

    reason: str
    about: str
    key: str  # dotted
    owner: type | None  # the nearest class above, whose setting it is


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """What ``parser`` makes of ``arguments``, whose files were found. Raises ConfigError in words for people."""
    try:
        return parser.parse_args(list(arguments))
    except argparse.ArgumentError as error:
        raise explain(error.message, parser, arguments) from error


def explain(message: str, parser: ArgumentParser, arguments: Sequence[str]) -> ConfigError:
    """The error to show for jsonargparse's ``message`` about ``arguments``, whose files were found."""
    faults = list(_faults(message))
    if not faults:
        return ConfigError(message.strip())
    order = list(REASONS)
    fault = min(faults, key=lambda fault: (order.index(fault.reason), -fault.key.count(".")))
    key = fault.key
    has_config = any("--config" in action.option_strings for action in parser._actions)
    match fault.reason:
        case "unknown":
            key, known = _unknown(fault, parser)
            alone = key in known  # which is given by its place
            text = "is given without its name" if alone else f"there is no such setting{nearest(key, known)}"
        case "stray":
            key, text = fault.about, "belongs to no option"
            text += f"; write --config {key}" if has_config and key.endswith((".yaml", ".yml")) else ""
        case "value":
            key, text = fault.about, "its value is missing"
        case "required":
            way_on = "; --config names a file that does" if has_config and not key else ""
            text = f"{fault.about} must be set{way_on}"
        case "file":
            text = f"there is no file {fault.about}"
        case "class" if os.sep in fault.about and not os.path.exists(fault.about):
            text = f"{fault.about}: no such file or folder"
        case "class":
            near = _known_classes(fault, parser)
            text = f"{fault.about} is neither the name of a class that fits nor the dotted path of one{near}"
        case "module":
            text = f"{fault.about}; the dotted path of a class must be one that Python can import here"
        case "abstract":
            text = "must be set"
        case "not a class":
            text = f"must have class_path, the name of a {fault.about}, and init_args, its settings"
        case _:
            kinds = dict.fromkeys(
                _words(other.about) for other in faults if other.reason == "type" and other.key == key
            )
            text = f"must be {' or '.join(kinds)}, not {_given(message)}"
    return ConfigError(f"{key}{where(key, arguments)}: {text}" if key else text)


def load_value(text: str) -> Any:
    """YAML, where "None" is null too: by that name jsonargparse hands a null from the command line down the levels."""
    return None if text == "None" else translate_settings(get_loader("yaml")(text))


set_loader("detseg", load_value, (yaml.YAMLError,))
# What all our parsers have in common.
PARSER: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False, "parser_mode": "detseg"}


def root_cause(error: BaseException) -> Exception:
    """What a constructor raised, from what jsonargparse made of it; an error of ours as it is."""
    chain = [error]
    while following := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(following)
    ours = [one for one in chain if isinstance(one, DetsegError)]
    return ours[-1] if ours else ConfigError(str(chain[-1]))


def _faults(message: str) -> Iterator[Fault]:
    """Every reason in a message, with the setting and the class that stand above it."""
    levels: list[tuple[int, str, type | None]] = []  # indentation, and the setting or the class of what is below
    for line in filter(str.strip, message.splitlines()):
        indent = len(line) - len(line.lstrip(" -"))
        while levels and levels[-1][0] >= indent:
            levels.pop()
        if match := KEY.search(line):
            levels.append((indent, match[1], None))
        elif match := CLASS.search(line):
            levels.append((indent, "", _class(match[1])))
        for reason, pattern in REASONS.items():
            if match := pattern.search(line):
                key = ".".join(name for _, name, _ in levels if name)
                owner = next((owner for _, _, owner in reversed(levels) if owner), None)
                yield Fault(reason, ".".join(filter(None, match.groups())), key, owner)
                break


def _unknown(fault: Fault, parser: ArgumentParser) -> tuple[str, list[str]]:
    """The whole key that is not known, and those that could stand in its place."""
    about = re.split(r"\.(?:init_args|class_path)", fault.about)[0]
    if fault.owner:
        names = _parameters(fault.owner)
        return f"{fault.key}.{about}", [f"{fault.key}.{name}" for name in names if name != "num_classes"]
    links = getattr(parser, "_links_group", None)
    linked = {action.target[0] for action in links._group_actions} if links else set()
    options = [action.dest for action in parser._actions if not action.dest.endswith("help")]
    options = [option for option in options if option not in linked]
    groups = {option.split(".")[0] for option in options}
    inside = [option for option in options if option.startswith(f"{about.split('.')[0]}.")]
    return about, inside or sorted({*groups, *options})


def _known_classes(fault: Fault, parser: ArgumentParser) -> str:
    """The names of the classes that would do, nearest first."""
    hints = [getattr(action, "_typehint", None) for action in parser._actions if action.dest == fault.key]
    bases = tuple(base for hint in hints for base in (typing.get_args(hint) or (hint,)))
    if fault.owner:
        hint = _parameters(fault.owner)[fault.key.rpartition(".")[2]].annotation
        bases = typing.get_args(hint) or (hint,)
    names = [
        cls.__name__
        for base in bases
        if inspect.isclass(base)
        for cls in (list(subclasses(base)) or [base])
        if not inspect.isabstract(cls)
    ]
    return nearest(fault.about, names) if names else ""


def _parameters(owner: type) -> dict[str, inspect.Parameter]:
    """What a class is built with; in the place of ``**settings``, the arguments of the class above it."""
    found: dict[str, inspect.Parameter] = {}
    for cls in (cls for cls in owner.__mro__ if "__init__" in cls.__dict__):
        parameters = inspect.signature(cls, eval_str=True).parameters
        found = {**{name: item for name, item in parameters.items() if item.kind is not item.VAR_KEYWORD}, **found}
        if all(item.kind is not item.VAR_KEYWORD for item in parameters.values()):
            break
    return found


def _class(path: str) -> type | None:
    """The class that jsonargparse has imported from ``path``, None if it could not."""
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return found if inspect.isclass(found) else None


def _words(kind: str) -> str:
    """What a Python type is called by people who write YAML."""
    if kind.startswith("typing.Literal"):
        return kind.removeprefix("typing.Literal[").removesuffix("]").replace("'", "").replace(", ", " or ")
    return WORDS.get(kind, kind)


def _given(message: str) -> str:
    match = GIVEN.search(message)
    return next(filter(None, match.groups())).strip() if match else "this"
