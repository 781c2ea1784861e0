"""Show the progress of long work outside of a trainer."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import MofNCompleteColumn, Progress, ProgressColumn, Task, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

log = logging.getLogger(__name__)

LINES = 10.0  # seconds between two lines of the log, without a terminal


class RateColumn(ProgressColumn):
    """Speed of a task, in units a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Format the speed of the last seconds; empty before the first step."""
        return Text(f"{task.speed:.1f} {self.unit}/s" if task.speed else "")


@contextmanager
def progress(done: int, total: int, name: str, unit: str = "images") -> Iterator[Callable[[], None]]:
    """Show a progress bar on a terminal, otherwise lines in the log; call the yielded function after each ``unit``."""
    if sys.stdout.isatty():
        bars = Progress.get_default_columns()[:2]
        times = TimeElapsedColumn(), TimeRemainingColumn()
        with Progress(*bars, MofNCompleteColumn(), RateColumn(unit), *times) as bar:
            task = bar.add_task(name, total=total, completed=done)
            yield lambda: bar.advance(task)
        return
    began = logged = time.monotonic()
    before = done

    def advance() -> None:
        nonlocal done, logged
        done += 1
        now = time.monotonic()
        if now - logged >= LINES:
            rate = (done - before) / (now - began)
            left = timedelta(seconds=round((total - done) / rate))
            log.info("%s: %d of %d %s, %.1f a second, %s left", name, done, total, unit, rate, left)
            logged = now

    yield advance
