"""Metrics as text that fits a terminal and a log file, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detseg.metrics.base import PerClassMetric

WIDTH = 100  # characters
ROWS = 10  # a column that grows longer than this gets a neighbour, while there is width
GAP = "    "


def format_tables(metrics: Iterable[PerClassMetric], values: Mapping[str, float]) -> str:
    """Lay out the values of several metrics in per cent: their summaries, then one table of all classes.

    A value that is NaN shows as "-": no object or pixel defines it.
    """
    metrics = list(metrics)
    summaries = ["\n".join(lines) for metric in metrics if (lines := metric.summary(values))]
    columns = {heading: name for metric in metrics for heading, name in metric.columns.items()}
    return "\n\n".join([*summaries, *_class_table(columns, values)])


def _class_table(columns: Mapping[str, str], values: Mapping[str, float]) -> list[str]:
    """A row for all classes and one for each class; ``columns`` are headings and names. Empty without any value."""
    keys = {heading: [key for key in values if f"{key}/".startswith(f"{name}/")] for heading, name in columns.items()}
    columns = {heading: name for heading, name in columns.items() if keys[heading]}
    ends = dict.fromkeys(key.removeprefix(name) for heading, name in columns.items() for key in keys[heading])
    if not ends:
        return []
    names = [end[1:] or "all classes" for end in ends]
    width = max(map(len, names))
    header = " " * width + "".join(f" {heading:>6}" for heading in columns)
    lines = [
        f"{name:<{width}}"
        + "".join(
            f" {percent(values.get(f'{column}{end}', math.nan)):>{max(6, len(heading))}}"
            for heading, column in columns.items()
        )
        for name, end in zip(names, ends, strict=True)
    ]
    neighbours = max(1, min(math.ceil(len(lines) / ROWS), WIDTH // (len(header) + len(GAP))))
    return ["\n".join(side_by_side(lines, math.ceil(len(lines) / neighbours), header))]


def format_values(values: Mapping[str, float]) -> list[str]:
    """One line for each value, in per cent."""
    width = max(map(len, values), default=0)
    return [f"{name:<{width}} {percent(value):>5}" for name, value in values.items()]


def side_by_side(lines: Sequence[str], height: int, header: str = "") -> list[str]:
    """Break lines of one width into columns of ``height`` lines, each under the header."""
    starts = range(0, len(lines), height)
    body = [GAP.join(lines[row::height]) for row in range(height)]
    return [GAP.join(header for _ in starts), *body] if header else body


def percent(value: float) -> str:
    """A fraction in per cent with one decimal; "-" for NaN."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def write_metrics(values: Mapping[str, float], path: Path) -> None:
    """Write values by name as JSON, with null for NaN."""
    plain = {name: None if math.isnan(value) else value for name, value in values.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
