"""Objects described by their class and constructor arguments, so that a checkpoint can rebuild them without pickle."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union

PLAIN_TYPES = (str, int, float, bool, type(None))
# Annotations of arguments whose values jsonargparse takes as they are; for any other it may import what a text names.
PLAIN_HINTS = (*PLAIN_TYPES, Path, Any, Ellipsis, Union, types.UnionType, list, tuple, dict, Sequence, Mapping)
PACKAGE = __name__.partition(".")[0]

# Replaces the `weights` of a saved object: settings that depend on the presence of weights stay as they were, but
# nothing is read or downloaded again, because the checkpoint contains the values.
WEIGHTS_IN_CHECKPOINT = "(in the checkpoint)"


class Configurable:
    """Record the constructor's arguments: ``to_config`` describes the object, ``from_config`` builds it again."""

    init_args: dict[str, Any]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in cls.__dict__:
            cls.__init__ = _recorded(cls.__init__)  # type: ignore[method-assign]


def _recorded(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a constructor so that the outermost one of a chain of subclasses records its arguments."""
    signature = inspect.signature(init)
    keywords = [name for name, item in signature.parameters.items() if item.kind is item.VAR_KEYWORD]

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        if "init_args" not in self.__dict__:
            _, *bound = signature.bind(self, *args, **kwargs).arguments.items()
            init_args = dict(bound)
            for name in keywords:  # arguments that are passed on under their own names
                init_args |= init_args.pop(name, {})
            self.__dict__["init_args"] = init_args
        init(self, *args, **kwargs)

    return wrapped


def to_config(value: Any) -> Any:
    """Describe a ``Configurable`` object, a plain value, or a list, tuple or dictionary of them.

    An object becomes ``{"class": name, "init_args": {...}}``; the name of a class from another package begins with its
    module. An argument called ``weights``, unless None, becomes ``WEIGHTS_IN_CHECKPOINT``.

    Raises TypeError, naming the type, for any other value.
    """
    if isinstance(value, Configurable):
        init_args = {
            key: _without_weights(key, to_config(item)) for key, item in vars(value).get("init_args", {}).items()
        }
        return {"class": _name(type(value)), "init_args": init_args}
    if isinstance(value, PLAIN_TYPES):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [to_config(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_config(item) for key, item in value.items()}
    raise TypeError(
        f"a checkpoint cannot describe a {type(value).__name__}; let its class inherit detseg.configurable.Configurable"
    )


def from_config(config: Any, **overrides: Any) -> Any:
    """Build the object that ``to_config`` described; ``overrides`` replace arguments of the outermost object.

    Classes are looked up by name among the imported subclasses of ``Configurable``: nothing that the description names
    is imported or executed. Raises KeyError for any other class.
    """
    if isinstance(config, dict) and set(config) == {"class", "init_args"}:
        classes = {_name(cls): cls for cls in subclasses(Configurable)}
        if config["class"] not in classes:
            raise KeyError(f"{config['class']}: not a class of detseg; import the module that defines it first")
        init_args = {key: from_config(_without_weights(key, item)) for key, item in config["init_args"].items()}
        return classes[config["class"]](**{**init_args, **overrides})
    if isinstance(config, dict):
        return {key: from_config(item) for key, item in config.items()}
    if isinstance(config, (list, tuple)):
        return [from_config(item) for item in config]
    return config


def to_class_paths(config: Any, plain: bool = False) -> Any:
    """Turn a description of ``to_config`` into ``class_path`` and ``init_args``, the default of a parser's setting.

    jsonargparse imports the classes that a default names. So only the description of an object, whose class is
    imported already, may stand where a class is expected; with ``plain``, the setting is of a type where a text stays
    a text. Raises TypeError for anything else that could be taken as the name of a class.
    """
    if isinstance(config, dict) and set(config) == {"class", "init_args"}:
        cls = type(from_config(config))  # looked up, not imported
        hints: dict[str, Any] = {}
        for base in reversed(cls.__mro__):  # a subclass may pass on arguments that only its base declares
            hints |= typing.get_type_hints(vars(base)["__init__"]) if "__init__" in vars(base) else {}
        init_args = {
            name: to_class_paths(value, _is_plain(hints.get(name)) or _is_name(value, hints.get(name)))
            for name, value in config["init_args"].items()
        }
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": init_args}
    if isinstance(config, dict):
        if keys := {"class_path", "init_args", "dict_kwargs"} & set(config):
            raise TypeError(f"{min(keys)} could name code to be imported")
        return {key: to_class_paths(value, plain) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_class_paths(value, plain) for value in config]
    if isinstance(config, str) and not plain:
        raise TypeError(f"{config!r} stands where a class is expected, and could name code to be imported")
    return config


def _is_plain(hint: Any) -> bool:
    """Return whether values of a type are plain."""
    if typing.get_origin(hint) is Literal or typing.is_typeddict(hint):
        return True
    return (typing.get_origin(hint) or hint) in PLAIN_HINTS and all(map(_is_plain, typing.get_args(hint)))


def _is_name(value: Any, hint: Any) -> bool:
    """Return whether a value is a bare name for a type that a text may have: nothing is imported for it."""
    return isinstance(value, str) and value.isidentifier() and str in typing.get_args(hint)


def _without_weights(key: str, value: Any) -> Any:
    return WEIGHTS_IN_CHECKPOINT if key == "weights" and value is not None else value


def _name(cls: type[Any]) -> str:
    """Return the bare name of a class of this package, which may move between files, or else the full name."""
    return cls.__name__ if cls.__module__.startswith(f"{PACKAGE}.") else f"{cls.__module__}.{cls.__qualname__}"


def subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    """Yield every imported class below ``cls``."""
    for subclass in cls.__subclasses__():
        yield subclass
        yield from subclasses(subclass)
