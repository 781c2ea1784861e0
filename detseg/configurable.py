"""How an object was built, as plain values, so that a checkpoint can rebuild it without running anything it names."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PLAIN = (str, int, float, bool, type(None))
PACKAGE = __name__.partition(".")[0]

# In the place of the weights that an object was built with. What depends on whether there were any stays as it was, but
# nothing is read or fetched again: the values are in the checkpoint.
WEIGHTS_IN_CHECKPOINT = "(in the checkpoint)"


class Configurable:
    """Record the arguments of a constructor: ``to_config`` reads them, ``from_config`` builds the object again."""

    arguments: dict[str, Any]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in cls.__dict__:
            cls.__init__ = _recorded(cls.__init__)  # type: ignore[method-assign]


def _recorded(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a constructor so that the outermost one of a chain of subclasses keeps its arguments."""
    signature = inspect.signature(init)
    keywords = [name for name, item in signature.parameters.items() if item.kind is item.VAR_KEYWORD]

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        if "arguments" not in self.__dict__:
            _, *bound = signature.bind(self, *args, **kwargs).arguments.items()
            arguments = dict(bound)
            for name in keywords:  # arguments that are passed on under their own names
                arguments |= arguments.pop(name, {})
            self.__dict__["arguments"] = arguments
        init(self, *args, **kwargs)

    return wrapped


def to_config(value: Any) -> Any:
    """Describe a ``Configurable`` object, a plain value, or a list, tuple or dictionary of them.

    An object becomes ``{"class": name, "arguments": {...}}``; the name of a class of another package than ours begins
    with its module. An argument called ``weights``, where it is not None, becomes ``WEIGHTS_IN_CHECKPOINT``.

    Raises TypeError for a value that is none of these, naming its type.
    """
    if isinstance(value, Configurable):
        arguments = {key: _weightless(key, to_config(item)) for key, item in value.__dict__["arguments"].items()}
        return {"class": _name(type(value)), "arguments": arguments}
    if isinstance(value, PLAIN):
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


def from_config(description: Any, **replaced: Any) -> Any:
    """Rebuild what ``to_config`` described; ``replaced`` overrides arguments of the outermost object.

    Classes are looked up by name among the subclasses of ``Configurable`` that are already imported: nothing that the
    description names is imported or executed. Raises KeyError for a class that is not among them.
    """
    if isinstance(description, dict) and set(description) == {"class", "arguments"}:
        known = {_name(cls): cls for cls in subclasses(Configurable)}
        if description["class"] not in known:
            raise KeyError(f"{description['class']}: not a class of detseg; import the module that defines it first")
        arguments = {key: from_config(_weightless(key, item)) for key, item in description["arguments"].items()}
        return known[description["class"]](**{**arguments, **replaced})
    if isinstance(description, dict):
        return {key: from_config(item) for key, item in description.items()}
    if isinstance(description, (list, tuple)):
        return [from_config(item) for item in description]
    return description


def _weightless(key: str, value: Any) -> Any:
    return WEIGHTS_IN_CHECKPOINT if key == "weights" and value is not None else value


def _name(cls: type[Any]) -> str:
    """Our own names stay when a class moves to another file; another package's could be the same as one of ours."""
    return cls.__name__ if cls.__module__.startswith(f"{PACKAGE}.") else f"{cls.__module__}.{cls.__qualname__}"


def subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    """Every class below ``cls`` that is imported."""
    for subclass in cls.__subclasses__():
        yield subclass
        yield from subclasses(subclass)
