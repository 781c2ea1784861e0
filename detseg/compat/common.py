"""Helpers of the tables: rename settings, and log each name once."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

Build = Callable[[str, dict[str, Any]], dict[str, Any]]  # makes an object of a class name and arguments
Hook = Callable[[dict[str, Any], Build], dict[str, Any]]  # from the arguments of an object to its new arguments


def rename(settings: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Remove the old ``names`` from ``settings``, and return their values by the new ones."""
    renamed = {new: settings.pop(old) for old, new in names.items() if old in settings}
    for old, new in names.items():
        if new in renamed:
            note(old, new)
    return renamed


@functools.cache  # once for each name
def note(old: str, new: str | None) -> None:
    """Log that a name was translated, or, without a ``new`` one, that it is no longer used."""
    if new is None:
        log.info("%s is no longer used in this version of detseg; remove it where you set it", old)
    else:
        log.info("%s is called %s in this version of detseg; change it where you set it", old, new)
