"""How far a long piece of work is that no trainer does."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

LINES = 10.0  # seconds between two lines of the log, where no terminal can show a bar


@contextmanager
def progress(done: int, total: int, name: str, unit: str = "images") -> Iterator[Callable[[], None]]:
    """A bar on a terminal, else lines in the log; what it gives is to be called after each ``unit``."""
    if sys.stdout.isatty():
        columns = *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        with Progress(*columns) as bar:
            task = bar.add_task(name, total=total, completed=done)
            yield lambda: bar.advance(task)
        return
    said = time.monotonic()

    def advance() -> None:
        nonlocal done, said
        done += 1
        if time.monotonic() - said >= LINES:
            log.info("%s: %d of %d %s", name, done, total, unit)
            said = time.monotonic()

    yield advance
