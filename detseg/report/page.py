"""The report of a detector as a page and as report.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from detseg.check.rendering import render
from detseg.errors import ConfigError
from detseg.metrics.matching import THRESHOLDS
from detseg.report.charts import Line, line_chart
from detseg.report.evaluation import DetectionRun
from detseg.report.pictures import MAX_BYTES, Album
from detseg.report.sections import MISS_COST, detection_sections
from detseg.report.training import training_lines

NAME = "report.json"
SENTENCE = 200  # bytes of the one that counts the images left out


def write_detection_report(run: DetectionRun, path: Path, miss_cost: float = MISS_COST) -> dict[str, Any]:
    """Write the page ``path`` and report.json beside it; return the report."""
    album = Album(run.boxes)
    sections = detection_sections(run, album, miss_cost)
    counts = run.boxes.image_counts()
    report = {
        "task": "detection",
        "about": dict(run.about),
        "threshold": run.boxes.threshold,
        **sections,
        "bootstrap": {name: run.boxes.replicates_of(name) for name in ("AP", "AP50", "AP75")},
        "images": {str(run.annotations.files[row]): one for row, one in zip(run.rows, counts.tolist(), strict=True)},
        "training": {name: {line: list(values) for line, values in lines.items()} for name, lines in _training(run)},
    }
    data = {
        "classes": run.classes,
        "operating": {name: sections["operating_point"][name] for name in ("thresholds", "steps")},
        "threshold": run.boxes.threshold,
        "root": str(run.annotations.root),
        "errors": [{key: one[key] for key in one if key != "views"} for one in sections["label_errors"]],
    }
    charts = _charts(run, sections)

    def page(images: Mapping[str, Any]) -> str:
        return render(
            "detection.html.j2",
            "detseg.report",
            **report,
            classes_table=sections["classes"],
            data=plain({**data, "images": images}),
            charts=charts,
            left_out=len(album.left_out),
            limit=MAX_BYTES,
        )

    images = album.to_json(MAX_BYTES - SENTENCE - len(page({}).encode()))
    write_page(path, page(images), report)
    return report


def write_page(path: Path, page: str, report: Mapping[str, Any]) -> None:
    """Write a page, and its values without the views of images as report.json beside it."""
    path.write_text(page, encoding="utf-8", errors="backslashreplace")
    numbers = {name: without_views(value) for name, value in report.items()}
    (path.parent / json_name(path)).write_text(json.dumps(plain(numbers), indent=1) + "\n", encoding="utf-8")


def json_name(path: Path) -> str:
    """The name of the file with the values of a page."""
    return NAME if path.stem == "report" else f"{path.stem}.json"


def check_page(option: str, path: Path, others: Mapping[str, Path | None]) -> None:
    """Raise ConfigError for a page that is no .html, or whose values would overwrite one of ``others``, by option."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{option} {path}: must end in .html; its values go to a .json file beside it")
    values = path.with_name(json_name(path))
    for name, other in others.items():
        if other and other.resolve() == values.resolve():
            raise ConfigError(f"{option} {path}: its values would overwrite {name} {other}; name another file")


def plain(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(one) for one in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def without_views(value: Any) -> Any:
    """The value without the entries that place images on the page."""
    if isinstance(value, Mapping):
        return {key: without_views(one) for key, one in value.items() if key != "views"}
    return [without_views(one) for one in value] if isinstance(value, list) else value


def _training(run: DetectionRun) -> list[tuple[str, dict[str, Line]]]:
    return [(name, {**lines}) for name, lines in training_lines(run.history).items()]


def _charts(run: DetectionRun, sections: Mapping[str, Any]) -> dict[str, list[Markup]]:
    """The charts of each section."""
    curves = sections["operating_point"]["curves"]
    calibration = sections["calibration"]
    seen = [(c, p) for c, p in zip(calibration["confidence"], calibration["precision"], strict=True) if c == c]
    detections = [confidence for confidence, _ in seen], [precision for _, precision in seen]
    reliability: dict[str, Line] = {"perfect": ([0, 1], [0, 1]), "detections": detections}
    charts = {
        "operating": [line_chart("Precision and recall at IoU .5", curves, "recall", "precision", shares=True)],
        "calibration": [line_chart("Precision by score", reliability, "mean score", "precision", shares=True)],
        "stages": [],
        "training": [
            line_chart(name, lines, "step", name, log=name == "learning rate") for name, lines in _training(run)
        ],
    }
    if recalls := sections["stages"]["proposal recall"]:
        lines: dict[str, Line] = {
            f"{count} proposals": (THRESHOLDS.tolist(), recalls["all"][row])
            for row, count in enumerate(recalls["top"])
            if recalls["all"]
        }
        charts["stages"].append(line_chart("Recall of proposals", lines, "IoU", "recall"))
    return charts
