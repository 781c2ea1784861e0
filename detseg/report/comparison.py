"""Comparison of two or more reports on the same images: paired differences, and images that improved or got worse."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detseg.check.rendering import PageImage, data_uri, render, shrink
from detseg.data.annotations.images import open_image
from detseg.errors import ConfigError, DataError
from detseg.metrics.base import defined_mean
from detseg.metrics.bootstrap import interval
from detseg.report.page import NAME, write_page

MAX_FLIPPED = 40  # images of each direction


def report_file(path: Path) -> Path:
    """The file with the values of a report: of a folder, of a page, or the file itself."""
    return path / NAME if path.is_dir() else path.with_suffix(".json") if path.suffix == ".html" else path


def read_report(path: Path) -> dict[str, Any]:
    """Read the values of a report: a file, or report.json in the folder of a run.

    Raises ConfigError if there is none, or the file is of another kind.
    """
    file = report_file(path)
    if not file.exists():
        if not path.is_dir():
            raise ConfigError(f"{file}: no such file; `detseg evaluate --report {path.stem}.html` writes it")
        raise ConfigError(
            f"{path}: has no {NAME}; write it with `detseg evaluate --checkpoint {path}/best.ckpt --report "
            f"{path}/report.html`"
        )
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        needed = ("task", "verdict", "bootstrap", "images", "about")
        return {name: report[name] for name in needed}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file}: is not the report of an evaluation ({error})") from error


def write_comparison(reports: Mapping[str, Mapping[str, Any]], path: Path) -> dict[str, Any]:
    """Write the page ``path`` and the values beside it; the first of ``reports``, by name, is what others differ from.

    The replicates of all reports draw the same images, so that their differences are paired. Raises ConfigError for
    reports of other tasks or images.
    """
    (first, base), *others = reports.items()
    for name, report in others:
        if report["task"] != base["task"]:
            raise ConfigError(f"{name}: is a report on {report['task']}, and {first} one on {base['task']}")
        if [*report["images"]] != [*base["images"]]:
            raise ConfigError(f"{name} and {first} are on different images: evaluate both on the same data and split")
    compared = {
        "task": base["task"],
        "about": {name: report["about"].get("model", "") for name, report in reports.items()},
        "differences": [_difference(first, base, name, report) for name, report in others],
    }
    flipped = {name: _flipped(base["images"], report["images"]) for name, report in others}
    compared["flipped"] = {
        name: {direction: [file for file, _ in files] for direction, files in of_run.items()}
        for name, of_run in flipped.items()
    }
    root = Path(base["about"].get("images", "."))
    pictures = {
        (name, direction): [one for file, text in files[:12] if (one := _picture(root, file, text))]
        for name, of_run in flipped.items()
        for direction, files in of_run.items()
    }
    page = render("comparison.html.j2", "detseg.report", **compared, first=first, pictures=pictures)
    write_page(path, page, compared)
    return compared


def _difference(first: str, base: Mapping[str, Any], name: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of both and their difference, with its paired interval and the share of better replicates."""
    metrics = []
    for metric, replicates in report["bootstrap"].items():
        both = [np.array(one, dtype=np.float64) for one in (base["bootstrap"][metric], replicates)]
        many = min(map(len, both))
        before, after = (one[:many] for one in both)
        low, high = interval(after - before)
        values = [_figure(one, metric) for one in (base, report)]
        metrics.append(
            {"metric": metric, "before": values[0], "after": values[1]}
            | {"difference": values[1] - values[0], "low": low, "high": high}
            | {"better": defined_mean(after > before)}
        )
    return {"name": name, "first": first, "metrics": metrics}


def _figure(report: Mapping[str, Any], metric: str) -> float:
    """The measured value of a metric, NaN where nothing defines it."""
    value = next(one["value"] for one in report["verdict"]["figures"] if one["name"] == metric)
    return math.nan if value is None else float(value)


def _flipped(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Images that became better or worse, those that changed most first, with the change as text."""
    changes = {file: _quality(after[file]) - _quality(before[file]) for file in before}
    order = sorted(changes, key=lambda file: changes[file])
    text = {file: f"before {_text(before[file])}; now {_text(after[file])}" for file in changes}
    return {
        "worse": [(file, text[file]) for file in order[:MAX_FLIPPED] if changes[file] < 0],
        "better": [(file, text[file]) for file in order[::-1][:MAX_FLIPPED] if changes[file] > 0],
    }


def _quality(value: Any) -> float:
    """F1 of the counts of an image, or its IoU, or 1 for a right class."""
    if isinstance(value, Sequence):
        tp, fp, fn = value
        return float(2 * tp / (2 * tp + fp + fn)) if tp + fp + fn else 1.0
    return float(value or 0)


def _text(value: Any) -> str:
    if isinstance(value, Sequence):
        return "{} right, {} wrong, {} missed".format(*value)
    return ("right" if value else "wrong") if isinstance(value, bool) else f"IoU {100 * (value or 0):.1f}"


def _picture(root: Path, file: str, text: str) -> PageImage | None:
    try:
        with open_image(root / file) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (DataError, OSError):
        return None
    return PageImage(data_uri(shrink(pixels, 300), 70), f"{file}: {text}")
