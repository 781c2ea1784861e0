"""The report on a segmenter: IoU with confidence intervals, confusion, and the worst images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.check.rendering import PageImage, data_uri, render, shrink
from detseg.data.annotations.issues import IssueCollector
from detseg.data.annotations.semantic import SemanticAnnotations
from detseg.draw import grid, overlay
from detseg.errors import DataError
from detseg.metrics.base import defined_mean
from detseg.metrics.bootstrap import image_weights, interval
from detseg.metrics.semantic import ratio
from detseg.metrics.stride_limit import StrideLimit
from detseg.report.charts import line_chart
from detseg.report.page import write_page
from detseg.report.pictures import LONG_EDGE
from detseg.report.training import training_lines

WORST, CELLS = 24, 30
LIMITED = 0.5  # IoU of the labels themselves at the stride of the network, below which a class is named

Records = Mapping[int, tuple[NDArray[np.int64], NDArray[np.uint8]]]


def write_semantic_report(
    annotations: SemanticAnnotations,
    records: Records,
    metrics: Mapping[str, float],
    about: Mapping[str, str],
    history: Sequence[Mapping[str, float]],
    path: Path,
    limit: StrideLimit | None = None,
) -> dict[str, Any]:
    """Write the page ``path`` and the values beside it, from the recorded matrices and labels of each image."""
    images = sorted(records)
    matrices = [records[image][0] for image in images]
    hits = np.stack([np.diag(matrix) for matrix in matrices])
    unions = np.stack([matrix.sum(axis=0) + matrix.sum(axis=1) for matrix in matrices]) - hits
    classes = annotations.classes
    per_image = np.array([defined_mean(one) for one in ratio(hits, unions)])
    weights = image_weights(len(images), len(images))
    replicates = ratio(weights @ hits, weights @ unions)
    total = sum(matrices[1:], start=matrices[0])
    of_classes = ratio(hits.sum(axis=0), unions.sum(axis=0))
    table: list[dict[str, Any]] = [
        {"name": name, "IoU": float(iou), "low": low, "high": high}
        | {key: metrics.get(f"{key}/{name}", float("nan")) for key in ("accuracy", "boundary_IoU")}
        | {"pixels": int(total[label].sum())}
        for label, (name, iou) in enumerate(zip(classes, of_classes, strict=True))
        for low, high in [interval(replicates[:, label])]
    ]
    if limit:
        table = [one | {"limit": float(value)} for one, value in zip(table, limit.iou, strict=True)]
    low, high = interval(np.array([defined_mean(one) for one in replicates]))
    order = np.argsort(per_image, kind="stable")[:WORST]
    figure = {"name": "mean_IoU", "value": defined_mean(of_classes), "low": low, "high": high}
    report: dict[str, Any] = {
        "task": "segmentation",
        "about": dict(about),
        "verdict": {"figures": [figure], "images": len(images)},
        "metrics": {name: value for name, value in metrics.items() if "/" not in name},
        "classes": table,
        "stride": limit and limit.stride,
        "limited": [one["name"] for one in table if one.get("limit", 1) < LIMITED],
        "confusion": _confusion(total, classes),
        "images": {str(annotations.files[image]): float(value) for image, value in zip(images, per_image, strict=True)},
        "bootstrap": {"mean_IoU": [defined_mean(one) for one in replicates]},
    }
    worst = [_picture(annotations, images[row], records[images[row]][1], per_image[row]) for row in order.tolist()]
    charts = [line_chart(name, lines, "step", name) for name, lines in training_lines(history).items()]
    page = render("semantic.html.j2", "detseg.report", **report, worst=[one for one in worst if one], charts=charts)
    write_page(path, page, report)
    return report


def _confusion(matrix: NDArray[np.int64], classes: Sequence[str]) -> list[tuple[str, str, int, float]]:
    """The most frequent errors: label, prediction, pixels, and their share of the label."""
    wrong = [
        (classes[a], classes[b], int(matrix[a, b]), float(matrix[a, b] / max(1, matrix[a].sum())))
        for a, b in zip(*np.nonzero(matrix), strict=True)
        if a != b
    ]
    return sorted(wrong, key=lambda one: -one[2])[:CELLS]


def _picture(
    annotations: SemanticAnnotations, image: int, predicted: NDArray[np.uint8], iou: float
) -> PageImage | None:
    """The image with its labels at the left and with the predicted ones at the right."""
    try:
        labels = annotations.labels(image, IssueCollector())
        pixels = shrink(annotations.read_image(image, labels.shape), LONG_EDGE)
    except DataError:
        return None
    size = pixels.shape[1::-1]
    both = (cv2.resize(one, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8) for one in (labels, predicted))
    drawn = grid([[overlay(pixels, one, annotations.classes) for one in both]])
    return PageImage(data_uri(drawn, 70), f"{annotations.path(image).name}: mean IoU {100 * iou:.1f}")
