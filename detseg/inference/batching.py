"""Batches of images that are padded to the same shape, and results in the order of the images."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

MAX_WAIT = 4  # batches: a rare shape waits no longer for others of its kind


def batch_by_shape(
    items: Iterable[T], shape: Callable[[T], Hashable], batch_size: int
) -> Iterator[list[tuple[int, T]]]:
    """Group items of the same shape into batches of at most ``batch_size``, each item with its position.

    An item is passed on after at most ``MAX_WAIT`` batches' worth of later ones, so that streams of any length take
    bounded memory.
    """
    groups: dict[Hashable, list[tuple[int, T]]] = {}  # the one with the oldest item first
    for position, item in enumerate(items):
        key = shape(item)
        groups.setdefault(key, []).append((position, item))
        if len(groups[key]) == batch_size:
            yield groups.pop(key)
        oldest = next(iter(groups), None)
        if oldest is not None and position - groups[oldest][0][0] >= MAX_WAIT * batch_size:
            yield groups.pop(oldest)
    yield from groups.values()


def in_order(results: Iterable[tuple[int, T]]) -> Iterator[T]:
    """Sort results by their positions 0, 1, 2, ... as they come."""
    waiting: dict[int, T] = {}
    position = 0
    for place, result in results:
        waiting[place] = result
        while position in waiting:
            yield waiting.pop(position)
            position += 1
