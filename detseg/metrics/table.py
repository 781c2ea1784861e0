"""Figures as text that fits a terminal and a log file."""

from __future__ import annotations

import math
from collections.abc import Mapping

WIDTH = 100  # characters
ROWS = 10  # a column that grows longer than this gets a neighbour, while there is width
GAP = "    "


def table(coco: Mapping[str, float], **others: Mapping[str, float]) -> str:
    """Lay out what ``coco_ap`` returns, in per cent: the 12 numbers, then every class's AP.

    Each of ``others`` is what ``voc_ap`` returns, and becomes one more column under its keyword. A figure that is nan
    shows as "-": there was nothing to find.
    """
    summary = [(name, value) for name, value in coco.items() if "/" not in name]
    name_width = max(len(name) for name, _ in summary)
    numbers = [f"{name:<{name_width}} {_percent(value):>5}" for name, value in summary]

    columns = {"AP": coco, **others}
    names = [name for name in coco if name == "AP" or "/" in name]
    shown = {name: "all classes" if name == "AP" else name.removeprefix("AP/") for name in names}
    name_width = max(len(name) for name in shown.values())
    header = " " * name_width + "".join(f" {column:>6}" for column in columns)
    lines = [
        f"{shown[name]:<{name_width}}"
        + "".join(f" {_percent(figures.get(name, math.nan)):>6}" for figures in columns.values())
        for name in names
    ]
    neighbours = max(1, min(math.ceil(len(lines) / ROWS), WIDTH // (len(header) + len(GAP))))
    rows = math.ceil(len(lines) / neighbours)
    return "\n".join([*_side_by_side(numbers, 3), "", *_side_by_side(lines, rows, header)])


def segmentation_table(figures: Mapping[str, float]) -> str:
    """Lay out what ``Confusion.figures`` returns, in per cent: the numbers over all, then those of every class."""
    summary = {name.replace("_", " "): value for name, value in figures.items() if "/" not in name}
    name_width = max(map(len, summary))
    numbers = [f"{name:<{name_width}} {_percent(value):>5}" for name, value in summary.items()]

    columns = list(dict.fromkeys(name.partition("/")[0] for name in figures if "/" in name))
    classes = list(dict.fromkeys(name.partition("/")[2] for name in figures if "/" in name))
    name_width = max(map(len, classes))
    shown = {column: column.replace("_", " ") for column in columns}
    header = " " * name_width + "".join(f" {text:>6}" for text in shown.values())
    lines = [
        f"{name:<{name_width}}"
        + "".join(
            f" {_percent(figures.get(f'{column}/{name}', math.nan)):>{max(6, len(text))}}"
            for column, text in shown.items()
        )
        for name in classes
    ]
    neighbours = max(1, min(math.ceil(len(lines) / ROWS), WIDTH // (len(header) + len(GAP))))
    rows = math.ceil(len(lines) / neighbours)
    return "\n".join([*_side_by_side(numbers, len(numbers)), "", *_side_by_side(lines, rows, header)])


def _side_by_side(lines: list[str], rows: int, header: str = "") -> list[str]:
    """Break lines of one width into columns of ``rows`` lines, each under the header."""
    starts = range(0, len(lines), rows)
    body = [GAP.join(lines[row::rows]) for row in range(rows)]
    return [GAP.join(header for _ in starts), *body] if header else body


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
