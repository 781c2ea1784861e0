"""Proposals of many images, computed in several processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.images import read_image

Method = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # (h, w, 3) RGB to boxes (N, 4) xyxy, likeliest first
Image = tuple[Any, ...]  # arguments of ``read_image``
TimedBoxes = tuple[NDArray[np.float32], float]  # boxes (N, 4) and the seconds of their computation


def compute_proposals(method: Method, images: Sequence[Image], jobs: int) -> Iterator[TimedBoxes]:
    """Compute the proposals of ``images`` in their order. With several jobs, ``method`` must be picklable.

    Raises DataError for an image that cannot be read.
    """
    if jobs == 1:
        yield from (_compute(method, image) for image in images)
        return
    # Spawned, because forks of a process with threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_end_with_parent) as pool:
        try:
            yield from pool.map(partial(_compute, method), images)
        finally:
            pool.shutdown(cancel_futures=True)


def _compute(method: Method, image: Image) -> TimedBoxes:
    pixels = read_image(*image)
    start = time.perf_counter()
    return method(pixels), time.perf_counter() - start


def _end_with_parent() -> None:
    """End this process when its parent ends, even if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
