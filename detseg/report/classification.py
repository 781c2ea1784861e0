"""The report on a classifier: accuracy with confidence intervals, confusion, and the most confident errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detseg.check.rendering import PageImage, data_uri, render, shrink
from detseg.data.annotations.images import read_image
from detseg.data.annotations.table import ClassificationIndex
from detseg.errors import DataError
from detseg.metrics.bootstrap import image_weights, interval
from detseg.metrics.calibration import calibrate
from detseg.report.charts import line_chart
from detseg.report.page import write_page
from detseg.report.training import training_lines

WORST, CELLS = 60, 30

Records = Mapping[int, tuple[int, Sequence[int], Sequence[float]]]


def write_classification_report(
    annotations: ClassificationIndex,
    records: Records,
    about: Mapping[str, str],
    history: Sequence[Mapping[str, float]],
    path: Path,
) -> dict[str, Any]:
    """Write the page ``path`` and the values beside it, from label, best classes and scores of each image."""
    images, classes = sorted(records), annotations.classes
    labels = np.array([records[image][0] for image in images])
    best = np.array([records[image][1] for image in images])
    scores = np.array([records[image][2] for image in images])
    first, among = best[:, 0] == labels, (best == labels[:, None]).any(axis=1)
    weights = image_weights(len(images), len(images)) / len(images)
    replicates = {name: weights @ correct.astype(np.float32) for name, correct in (("top1", first), ("top5", among))}
    cells, counts = np.unique(np.stack([labels, best[:, 0]], axis=1)[~first], axis=0, return_counts=True)
    report: dict[str, Any] = {
        "task": "classification",
        "about": dict(about),
        "verdict": {
            "figures": [
                {"name": name, "value": float(correct.mean()), "low": low, "high": high}
                for name, correct in (("top1", first), ("top5", among))
                for low, high in [interval(replicates[name])]
            ],
        },
        "classes": [
            {
                "name": name,
                "images": int(chosen.sum()),
                "top1": float(first[chosen].mean()) if chosen.any() else float("nan"),
            }
            for label, name in enumerate(classes)
            for chosen in [labels == label]
        ],
        "confusion": [
            (classes[cells[row, 0]], classes[cells[row, 1]], int(counts[row]))
            for row in np.argsort(-counts, kind="stable")[:CELLS].tolist()
        ],
        "calibration": calibrate(scores[:, 0], first)._asdict(),
        "images": {str(annotations.files[image]): bool(one) for image, one in zip(images, first, strict=True)},
        "bootstrap": {name: values.tolist() for name, values in replicates.items()},
    }
    order = np.argsort(np.where(first, -1.0, scores[:, 0]), kind="stable")[::-1][: min(WORST, int((~first).sum()))]
    worst = [_picture(annotations, images[row], int(labels[row]), int(best[row, 0]), scores[row, 0]) for row in order]
    charts = [line_chart(name, lines, "step", name) for name, lines in training_lines(history).items()]
    page = render("classification.html.j2", "detseg.report", **report, worst=[*filter(None, worst)], charts=charts)
    write_page(path, page, report)
    return report


def _picture(
    annotations: ClassificationIndex, image: int, label: int, predicted: int, score: float
) -> PageImage | None:
    try:
        pixels = read_image(annotations.path(image))
    except DataError:
        return None
    classes = annotations.classes
    caption = f"{annotations.path(image).name}: {classes[predicted]} {score:.2f}, labelled {classes[label]}"
    return PageImage(data_uri(shrink(pixels, 300), 70), caption)
