"""Translate jsonargparse's errors into one line: the key, its file and line, the problem and the nearest valid names.

jsonargparse's messages are trees of indented lines. A line that names a setting or a class opens a level, the others
give reasons. Only the most specific reason is shown.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser

from detseg.cli._configs import nearest, where
from detseg.configurable import subclasses
from detseg.errors import ConfigError

KEY = re.compile(r'Parser key "([^"]+)"')
CLASS = re.compile(r"Problem with given class_path '([^']+)'")

# Reasons that a line can give, the most specific first; a group captures the subject of the line.
REASONS = {
    "unknown": re.compile(r"(?:Group '([^']+)' does not accept o|O)ption '([^']+)'|unrecognized arguments: --([^ =]+)"),
    "stray": re.compile(r"unrecognized arguments: (.+)"),
    "no value": re.compile(r"argument (?:-c/)?--(\S+): expected"),
    "required": re.compile(r"the following arguments are required: (.+)"),
    "file": re.compile(r"Expected a path but (\S+\.ya?ml) |Unable to load config '([^']+)'"),
    "class": re.compile(r"Expected a dot import path string: (.+)|Unexpected import path format: (.+)"),
    "module": re.compile(r"(No module named '[^']+'|cannot import name '[^']+'|has no attribute '[^']+')"),
    "abstract": re.compile(r"instantiatable class, but \S+ is (abstract)"),
    "not a class": re.compile(r"Not a valid subclass of (\w+)"),
    "type": re.compile(r"Expected an? (?:<class ')?(.+?)(?:'>)?(?:\. Got value: .*)?$|Not of type (\w+):"),
}
VALUE = re.compile(r"Got value: (.+)|Given value: (.+)|Not of type \w+: (?:(\S+) does not|.*: '(.+)')")
TYPE_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "tuple": "a list",
    "collections.abc.Sequence": "a list",
    "NoneType": "null",
    "Path": "a path",
    "PositiveInt": "a whole number above 0",
    "PositiveFloat": "a number above 0",
    "ClosedUnitInterval": "a number from 0 to 1",
}


class Problem(NamedTuple):
    """One reason of a message, its subject and its place."""

    reason: str
    subject: str
    key: str  # dotted
    owner: type | None  # the nearest class above the key, whose argument it is


def explain(message: str, parser: ArgumentParser, arguments: Sequence[str]) -> ConfigError:
    """Return the error to show for jsonargparse's ``message`` about ``arguments``."""
    problems = list(_problems(message))
    if not problems:
        return ConfigError(message.strip())
    order = list(REASONS)
    problem = min(problems, key=lambda problem: (order.index(problem.reason), -problem.key.count(".")))
    if problem.reason == "type":
        of_key = [other.subject for other in problems if (other.reason, other.key) == ("type", problem.key)]
        names = dict.fromkeys(map(_type_name, of_key))
        key, text = problem.key, f"must be {' or '.join(names)}, not {_value(message)}"
    else:
        key, text = _describe(problem, parser)
    return ConfigError(f"{key}{where(key, arguments)}: {text}" if key else text)


def _describe(problem: Problem, parser: ArgumentParser) -> tuple[str, str]:
    """Return the key to name and the text about it, for every reason but "type"."""
    key, subject = problem.key, problem.subject
    has_config = any("--config" in action.option_strings for action in parser._actions)
    match problem.reason:
        case "unknown":
            key, known = _unknown_key(problem, parser)
            if key in known:  # a positional argument
                return key, "is given without its name"
            return key, f"there is no such setting{nearest(key, known)}"
        case "stray":
            hint = f"; write --config {subject}" if has_config and subject.endswith((".yaml", ".yml")) else ""
            return subject, f"belongs to no option{hint}"
        case "no value":
            return subject, f"its value is missing{_values(subject, parser)}"
        case "required":
            hint = "; --config names a file that does" if has_config else f"\nusage: {parser.usage}"
            hint = "" if key else hint
            return key, f"{subject} must be set{hint}"
        case "file":
            return key, f"there is no file {subject}"
        case "class" if os.sep in subject and not os.path.exists(subject):
            return key, f"{subject}: no such file or folder"
        case "class":
            near = _nearest_classes(problem, parser)
            if key == "data":
                return key, f"{subject} is no folder or file here, nor a class that fits{near}"
            return key, f"{subject} is neither the name of a class that fits nor the dotted path of one{near}"
        case "module":
            return key, f"{subject}; the dotted path of a class must be one that Python can import here"
        case "abstract":
            return key, "must be set"
        case _:  # "not a class"
            return key, f"must have class_path, the name of a {subject}, and init_args, its settings"


def _values(option: str, parser: ArgumentParser) -> str:
    """Return the end of a message: the values that an option takes and the first sentence of its description."""
    action = next(action for action in parser._actions if f"--{option}" in action.option_strings)
    hint = getattr(action, "_typehint", action.type)
    hints = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    literals = [_type_name(str(one)) for one in hints if typing.get_origin(one) is typing.Literal]
    names = [getattr(one, "__name__", "") for one in hints if one is not types.NoneType]
    expected = " or ".join([*literals, *(TYPE_NAMES[name] for name in names if name in TYPE_NAMES)])
    text = " ".join((action.help or "").split()).partition(". ")[0].removesuffix(".")
    return f"; give {expected}" * bool(expected) + f": {text}" * bool(text)


def _problems(message: str) -> Iterator[Problem]:
    """Yield every reason in a message with the setting and the class above it."""
    levels: list[tuple[int, str, type | None]] = []  # the indentation, and the setting or the class of the lines below
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
                yield Problem(reason, ".".join(filter(None, match.groups())), key, owner)
                break


def _unknown_key(problem: Problem, parser: ArgumentParser) -> tuple[str, list[str]]:
    """Return the whole key that is not known, and the keys that are valid in its place."""
    name = re.split(r"\.(?:init_args|class_path)", problem.subject)[0]
    if problem.owner:
        names = _parameters(problem.owner)
        return f"{problem.key}.{name}", [f"{problem.key}.{valid}" for valid in names if valid != "num_classes"]
    links = getattr(parser, "_links_group", None)
    linked = {action.target[0] for action in links._group_actions} if links else set()
    options = [action.dest for action in parser._actions if not action.dest.endswith("help")]
    options = [option for option in options if option not in linked]
    groups = {option.split(".")[0] for option in options}
    inside = [option for option in options if option.startswith(f"{name.split('.')[0]}.")]
    return name, inside or sorted({*groups, *options})


def _nearest_classes(problem: Problem, parser: ArgumentParser) -> str:
    """Return the end of a message: the names of the classes that fit, nearest first."""
    hints = [getattr(action, "_typehint", None) for action in parser._actions if action.dest == problem.key]
    if problem.owner:
        hints = [_parameters(problem.owner)[problem.key.rpartition(".")[2]].annotation]
    names = [
        cls.__name__
        for hint in hints
        for base in _classes(hint)
        for cls in (list(subclasses(base)) or [base])
        if not inspect.isabstract(cls)
    ]
    return nearest(problem.subject, names) if names else ""


def _classes(hint: Any) -> Iterator[type]:
    """Yield every class in a type, such as that of the items of a list."""
    if inspect.isclass(hint):
        yield hint
    for part in typing.get_args(hint):
        yield from _classes(part)


def _parameters(owner: type) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class by name; ``**settings`` stands for those of the class above it."""
    parameters: dict[str, inspect.Parameter] = {}
    for cls in (cls for cls in owner.__mro__ if "__init__" in cls.__dict__):
        signature = inspect.signature(cls, eval_str=True).parameters.values()
        parameters = {item.name: item for item in signature if item.kind is not item.VAR_KEYWORD} | parameters
        if all(item.kind is not item.VAR_KEYWORD for item in signature):
            break
    return parameters


def _class(path: str) -> type | None:
    """Return the class that jsonargparse has imported from ``path``, None if it could not."""
    module, _, name = path.rpartition(".")
    cls = getattr(sys.modules.get(module), name, None)
    return cls if inspect.isclass(cls) else None


def _type_name(python_type: str) -> str:
    """Return the name of a Python type for people who write YAML."""
    if python_type.startswith("typing.Literal"):
        choices = python_type.removeprefix("typing.Literal[").removesuffix("]")
        return choices.replace("'", "").replace(", ", " or ")
    return TYPE_NAMES.get(python_type, python_type)


def _value(message: str) -> str:
    match = VALUE.search(message)
    return next(filter(None, match.groups())).strip() if match else "this"
