"""Results of a check as text and as JSON values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.check.checking import CheckResult
from detseg.check.statistics import BoxStatistics, anchor_coverage
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import KINDS, MAX_LISTED, summarize, title
from detseg.plural import counted

MAX_CLASSES = 30  # listed without ``--all``
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


def format_report(result: CheckResult, statistics: BoxStatistics, side: int, list_all: bool) -> str:
    """Format the report for a terminal."""
    lines = [f"{result.root}: {result.format}, {', '.join(result.splits) or 'no readable split'}", ""]
    lines += _format_table(split_table(result))
    unit = "objects" if result.has_objects else "pixels"
    ranked = sorted(result.class_counts.items(), key=lambda item: -sum(item[1].values()))
    listed = ranked if list_all else ranked[:MAX_CLASSES]
    rows = [[name, *(f"{count:,}" for count in counts.values())] for name, counts in listed]
    lines += ["", *_format_table([["class", *(f"{unit} in {split}" for split in result.splits)], *rows])]
    if len(ranked) > len(listed):
        lines.append(f"and {len(ranked) - len(listed)} more classes; --all lists them")
    if len(statistics.box_sides):
        lines += ["", *_box_lines(statistics, side)]
    return "\n".join([*lines, "", *_issue_lines(result, list_all)])


def to_json(result: CheckResult, statistics: BoxStatistics, side: int) -> dict[str, Any]:
    """Return the whole result as JSON values."""
    names, *rows = split_table(result)
    coverage = anchor_coverage(statistics).items()
    return {
        "root": str(result.root),
        "format": result.format,
        "status": ("clean", "warnings", "errors")[result.status],
        "decoded": result.decoded,
        "splits": {
            row[0]: dict(zip(names[1:4], (int(cell.replace(",", "")) for cell in row[1:4]), strict=True))
            for row in rows
        },
        "classes": result.class_counts,
        "box_sides": _quantiles(statistics.box_sides),
        "aspect_ratios": _quantiles(statistics.aspect_ratios),
        "objects_per_image": _quantiles(statistics.objects_per_image),
        "anchors": {
            "short_edge": side,
            **{name: {"boxes": count, "covered": round(fraction, 4)} for name, (count, fraction) in coverage},
        },
        "issues": [issue._asdict() | {"severity": issue.severity} for issue in result.issues],
    }


def split_table(result: CheckResult) -> list[list[str]]:
    """Return a header and the counts of each split as cells of a table."""
    header = ["split", "images", "without objects", "objects", "crowd", "difficult"]
    rows = [[*header, "image sizes (smallest, median, largest)"]]
    for split, table in result.splits.items():
        sizes = result.image_sizes[split]
        sizes = sizes[sizes.all(axis=1)]
        by_area = sizes[np.argsort(sizes.prod(axis=1), kind="stable")].tolist()
        chosen = (by_area[0], by_area[len(by_area) // 2], by_area[-1]) if by_area else ()
        text = ", ".join(f"{width}x{height}" for height, width in chosen) or "none"
        counts = [0, 0, 0, 0]
        if isinstance(table, DetectionAnnotations):
            empty = (np.diff(table.offsets) == 0).sum()
            crowd, difficult = table.crowd.sum(), table.difficult.sum()
            counts = [int(empty), len(table.labels), int(crowd), int(difficult)]
        rows.append([split, f"{len(table):,}", *(f"{count:,}" for count in counts), text])
    return rows


def _box_lines(statistics: BoxStatistics, side: int) -> Iterator[str]:
    header = ["", "min", "5 %", "median", "95 %", "max"]
    rows = [
        ("square root of box area", statistics.box_sides),
        ("width over height", statistics.aspect_ratios),
        ("objects per image", statistics.objects_per_image),
    ]
    yield from _format_table(
        [header, *([name, *(f"{value:.3g}" for value in np.quantile(values, QUANTILES))] for name, values in rows)]
    )
    coverage = [
        f"{name} {100 * fraction:.1f} % of {count:,}"
        for name, (count, fraction) in anchor_coverage(statistics).items()
        if count
    ]
    yield f"anchors of a pyramid at a short edge of {side}: IoU 0.5 or more with {'; '.join(coverage)}"


def _issue_lines(result: CheckResult, list_all: bool) -> Iterator[str]:
    for kind, messages in summarize(result.issues):
        yield f"{KINDS[kind][0]}: {title(kind, len(messages))}"
        listed = messages if list_all else messages[:MAX_LISTED]
        yield from (f"  {relative(result, message)}" for message in listed)
        if len(messages) > len(listed):
            yield f"  and {len(messages) - len(listed)} more; --all lists them"
    counts = ", ".join(counted(count, severity) for severity, count in result.severity_counts.items())
    yield counts if result.issues else "clean"


def relative(result: CheckResult, message: str) -> str:
    """Return a message with paths relative to the data set."""
    return message.replace(f"{result.root}/", "")


def _quantiles(values: NDArray[Any]) -> list[float]:
    return [round(float(value), 4) for value in np.quantile(values, QUANTILES)] if len(values) else []


def _format_table(cells: Sequence[Sequence[str]]) -> list[str]:
    """Align cells in columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in cells
    ]
