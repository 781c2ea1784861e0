"""Threads that work ahead, batches of images that are padded to the same shape, and results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MAX_WAIT = 4  # batches: a rare shape waits no longer for others of its kind
AHEAD = 2  # items for each thread that wait or are worked on


def map_ahead(
    function: Callable[[T], R], items: Iterable[T], threads: int, can_wait: Callable[[T], bool] = lambda item: True
) -> Iterator[R]:
    """Apply a function to items in threads, a bounded number of items ahead, and yield the results in order.

    An item for which ``can_wait`` is false is computed at once, before the next one is taken. OpenCV, NumPy, Pillow and
    torch release the interpreter while they compute, so that threads decode, resize and encode at the same time.
    """
    pool = ThreadPoolExecutor(max(1, threads))
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if threads == 0 or not can_wait(item):
                while waiting:
                    yield waiting.popleft().result()
            elif len(waiting) >= AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also where the caller takes no more results
        pool.shutdown(cancel_futures=True)


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
