"""The report on a segmenter, against replicates that add up the matrices of the drawn images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from detseg.errors import DataError
from detseg.metrics.bootstrap import image_weights
from detseg.metrics.stride_limit import StrideLimit
from detseg.report.semantic import write_semantic_report


def unreadable(*_: Any) -> None:
    raise DataError("no image")


def mean_iou(matrix: np.ndarray) -> float:
    values = []
    for label in range(len(matrix)):
        union = matrix[label].sum() + matrix[:, label].sum() - matrix[label, label]
        values += [matrix[label, label] / union] if union else []
    return float(np.mean(values))


def test_replicates_are_those_of_the_drawn_images(tmp_path: Path) -> None:
    matrices = np.random.default_rng(0).integers(0, 50, (6, 4, 4))
    matrices[:, 3], matrices[:, :, 3] = 0, 0  # a class without a pixel
    annotations: Any = SimpleNamespace(
        classes=("a", "b", "c", "d"), files=np.array([f"{row}.png" for row in range(6)]), labels=unreadable
    )
    records = {row: (matrix, np.zeros((2, 2), np.uint8)) for row, matrix in enumerate(matrices)}
    report = write_semantic_report(annotations, records, {}, {"model": "x"}, [], tmp_path / "page.html")
    expected = [mean_iou(np.einsum("i,ijk", drawn, matrices)) for drawn in image_weights(6, 6)]
    assert report["bootstrap"]["mean_IoU"] == pytest.approx(expected)
    assert report["verdict"]["figures"][0]["value"] == pytest.approx(mean_iou(matrices.sum(axis=0)))
    assert list(report["images"].values()) == pytest.approx([mean_iou(one) for one in matrices])


def test_classes_too_thin_for_the_stride_are_named(tmp_path: Path) -> None:
    labels = np.zeros((32, 32), np.uint8)
    annotations: Any = SimpleNamespace(
        classes=("ground", "pole"),
        files=np.array(["a.png"]),
        labels=lambda *_: labels,
        path=Path,
        read_image=unreadable,
    )
    records, page = {0: (np.eye(2, dtype=np.int64), labels)}, tmp_path / "page.html"
    report = write_semantic_report(annotations, records, {}, {}, [], page, StrideLimit(8, np.array([0.9, 0.1])))
    assert report["limited"] == ["pole"]
    assert "Too thin for cells of 8 x 8 pixels: pole." in page.read_text()
