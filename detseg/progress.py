"""Show the progress of long work outside of a trainer."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

LINES = 10.0  # seconds between two lines of the log, without a terminal


@contextmanager
def progress(done: int, total: int, name: str, unit: str = "images") -> Iterator[Callable[[], None]]:
    """Show a progress bar on a terminal, otherwise lines in the log; call the yielded function after each ``unit``."""
    if sys.stdout.isatty():
        columns = *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        with Progress(*columns) as bar:
            task = bar.add_task(name, total=total, completed=done)
            yield lambda: bar.advance(task)
        return
    logged = time.monotonic()

    def advance() -> None:
        nonlocal done, logged
        done += 1
        if time.monotonic() - logged >= LINES:
            log.info("%s: %d of %d %s", name, done, total, unit)
            logged = time.monotonic()

    yield advance
