"""What a check found, as text and as plain values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from detseg.check.checking import CheckResult
from detseg.check.figures import Figures, covered
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import KINDS, Issue

FIRST = 3  # faults of each kind that are listed unless all are asked for
CLASSES = 30  # classes that are listed
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


def text(checked: CheckResult, found: Figures, side: int, everything: bool) -> str:
    """The report for a terminal."""
    lines = [f"{checked.root}: {checked.format}, {', '.join(checked.parts) or 'nothing that can be read'}", ""]
    lines += _table(list(part_rows(checked)))
    unit = "objects" if any(isinstance(part, DetectionAnnotations) for part in checked.parts.values()) else "pixels"
    ranked = sorted(checked.counts.items(), key=lambda one: -sum(one[1].values()))
    shown = ranked if everything else ranked[:CLASSES]
    rows = [[name, *(f"{count:,}" for count in counts.values())] for name, counts in shown]
    lines += ["", *_table([["class", *(f"{unit} in {split}" for split in checked.parts)], *rows])]
    if len(ranked) > len(shown):
        lines.append(f"and {len(ranked) - len(shown)} more classes; --all lists them")
    if len(found.sides):
        lines += ["", *_box_lines(found, side)]
    return "\n".join([*lines, "", *_fault_lines(checked, everything)])


def values(checked: CheckResult, found: Figures, side: int) -> dict[str, Any]:
    """All of a check as values for JSON."""
    names, *rows = part_rows(checked)
    return {
        "root": str(checked.root),
        "format": checked.format,
        "status": ("clean", "warnings", "errors")[checked.status],
        "decoded": checked.decoded,
        "parts": {
            row[0]: dict(zip(names[1:4], (int(cell.replace(",", "")) for cell in row[1:4]), strict=True))
            for row in rows
        },
        "classes": checked.counts,
        "side_of_boxes": _quantiles(found.sides),
        "width_over_height": _quantiles(found.shapes),
        "objects_per_image": _quantiles(found.per_image),
        "anchors": {
            "short_edge": side,
            **{name: {"boxes": count, "covered": round(share, 4)} for name, (count, share) in covered(found).items()},
        },
        "faults": [fault._asdict() | {"severity": fault.severity} for fault in checked.faults],
    }


def part_rows(checked: CheckResult) -> Iterator[list[str]]:
    """A head, and the counts of each part."""
    yield [
        "part",
        "images",
        "without objects",
        "objects",
        "crowd",
        "difficult",
        "sizes of images (smallest, median, largest)",
    ]
    for split, part in checked.parts.items():
        sizes = checked.sizes[split]
        sizes = sizes[sizes.all(axis=1)]
        order = sizes[np.argsort(sizes.prod(axis=1), kind="stable")]
        text = ", ".join(f"{order[at][1]}x{order[at][0]}" for at in (0, len(order) // 2, -1)) if len(order) else "none"
        counts = [0, 0, 0, 0]
        if isinstance(part, DetectionAnnotations):
            counts = [
                int((np.diff(part.offsets) == 0).sum()),
                len(part.labels),
                int(part.crowd.sum()),
                int(part.difficult.sum()),
            ]
        yield [split, f"{len(part):,}", *(f"{count:,}" for count in counts), text]


def _box_lines(found: Figures, side: int) -> Iterator[str]:
    head = ["", "least", "5 %", "half", "95 %", "most"]
    rows = [
        ("side of boxes, root of the area", found.sides),
        ("width over height", found.shapes),
        ("objects per image", found.per_image),
    ]
    yield from _table(
        [head, *([name, *(f"{value:.3g}" for value in np.quantile(numbers, QUANTILES))] for name, numbers in rows)]
    )
    shares = [f"{name} {100 * share:.1f} % of {count:,}" for name, (count, share) in covered(found).items() if count]
    yield f"anchors of a pyramid at a short edge of {side}: IoU 0.5 or more with {'; '.join(shares)}"


def _fault_lines(checked: CheckResult, everything: bool) -> Iterator[str]:
    for kind, (severity, title) in KINDS.items():
        faults = checked.of_kind(kind)
        if not faults:
            continue
        yield f"{severity}: {len(faults)} {title} ({kind})"
        shown = faults if everything else faults[:FIRST]
        yield from (f"  {short(checked, fault)}" for fault in shown)
        if len(faults) > len(shown):
            yield f"  and {len(faults) - len(shown)} more; --all lists them"
    counts = {
        severity: sum(fault.severity == severity for fault in checked.faults)
        for severity in ("error", "warning", "note")
    }
    yield (
        "clean"
        if not checked.status and not counts["note"]
        else ", ".join(f"{count} {name}s" for name, count in counts.items())
    )


def short(checked: CheckResult, fault: Issue) -> str:
    """What a fault says, with paths relative to the data set."""
    return fault.message.replace(f"{checked.root}/", "")


def _quantiles(numbers: Any) -> list[float]:
    return [round(float(value), 4) for value in np.quantile(numbers, QUANTILES)] if len(numbers) else []


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns, the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]
