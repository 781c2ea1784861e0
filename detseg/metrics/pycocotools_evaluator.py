"""The official numbers of the COCO benchmark: pycocotools, beside which ``CocoAP`` can be held at run time."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detseg.metrics.coco import MASKS, SUMMARY
from detseg.metrics.detection_metric import DetectionMetric
from detseg.metrics.detections import Detections, GroundTruth
from detseg.metrics.table import percent


class _Evaluation(COCOeval):  # type: ignore[misc]
    """Ignores difficult objects, which COCO's files cannot mark."""

    def _prepare(self) -> None:
        super()._prepare()
        for objects in self._gts.values():
            for one in objects:
                one["ignore"] = one["ignore"] or one["difficult"]


def pycocotools_ap(
    truth: GroundTruth, detections: Detections, classes: Sequence[str], of: Literal["boxes", "masks"] = "boxes"
) -> dict[str, float]:
    """The values of ``CocoAP`` of boxes or of masks by pycocotools, with NaN for its -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        expected, predicted = COCO(), COCO()
        expected.dataset = _dataset(truth, classes, of)
        predicted.dataset = {**expected.dataset, "annotations": _results(truth, detections, of)}
        expected.createIndex()
        predicted.createIndex()
        evaluation = _Evaluation(expected, predicted, "segm" if of == "masks" else "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = dict(zip(SUMMARY, evaluation.stats.tolist(), strict=True))
    for label, name in enumerate(classes):
        precision = evaluation.eval["precision"][:, :, label, 0, 2]
        values[f"AP/{name}"] = float(precision[precision > -1].mean()) if (precision > -1).any() else -1.0
    return {name: math.nan if value == -1 else value for name, value in values.items()}


def compare(metric: DetectionMetric, values: Mapping[str, float]) -> str:
    """Lay out the official numbers beside the ``values`` of ``CocoAP``, with the largest difference.

    The detections are those of the last ``compute`` of ``metric``.
    """
    truth, detections = metric.ground_truth, metric.detections
    if truth is None or detections is None:
        raise ValueError("the metric has not been computed")
    types: list[tuple[Literal["boxes", "masks"], str]] = [("boxes", "")]
    if detections.masks is not None and truth.masks is not None:
        types.append(("masks", MASKS))
    official = {
        f"{prefix}{name}": value
        for of, prefix in types
        for name, value in pycocotools_ap(truth, detections, metric.computed_classes, of).items()
    }
    ours = {name: values[name] for name in official}
    rows = [name for name in official if "/" not in name]
    width = max(map(len, rows))
    lines = [f"{name:<{width}} {percent(ours[name]):>6} {percent(official[name]):>11}" for name in rows]
    difference = largest_difference(ours, official)
    header = f"{'':<{width}} {'detseg':>6} {'pycocotools':>11}"
    return "\n".join([header, *lines, f"largest difference, classes included: {difference:.1e}"])


def largest_difference(values: Mapping[str, float], others: Mapping[str, float]) -> float:
    """The largest absolute difference between values of the same names; infinite where one alone is NaN."""
    differences = [
        math.inf if math.isnan(values[name]) != math.isnan(other) else abs(values[name] - other)
        for name, other in others.items()
        if not (math.isnan(values[name]) and math.isnan(other))
    ]
    return max(differences, default=0.0)


def _dataset(truth: GroundTruth, classes: Sequence[str], of: str) -> dict[str, Any]:
    """A COCO file's content; images are numbered in the order of their ids, categories and objects from 1."""
    numbers = _numbers(truth)
    sizes = truth.sizes.tolist()
    columns = (truth.images.tolist(), truth.boxes.tolist(), truth.labels.tolist(), truth.areas.tolist())
    flags = (truth.crowd.tolist(), truth.difficult.tolist())
    annotations = []
    for row, (image, (x1, y1, x2, y2), label, area, crowd, difficult) in enumerate(zip(*columns, *flags, strict=True)):
        annotations.append(
            {
                "id": row + 1,
                "image_id": numbers[image],
                "category_id": label + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": area,
                "iscrowd": int(crowd),
                "difficult": difficult,
            }
        )
        if of == "masks":
            assert truth.masks is not None
            annotations[-1]["segmentation"] = {"size": sizes[image], "counts": truth.masks[row]}
    return {
        "images": [
            {"id": number, "height": height, "width": width}
            for number, (height, width) in zip(numbers, sizes, strict=True)
        ],
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(classes)],
        "annotations": annotations,
    }


def _results(truth: GroundTruth, detections: Detections, of: str) -> list[dict[str, Any]]:
    """Detections as annotations, with the area that ``COCO.loadRes`` gives them: of the box, or of the mask alone."""
    numbers, sizes = _numbers(truth), truth.sizes.tolist()
    columns = (detections.images.tolist(), detections.boxes.tolist(), detections.labels.tolist(), detections.scores)
    results = []
    for row, (image, (x1, y1, x2, y2), label, score) in enumerate(zip(*columns, strict=True)):
        one = {"id": row + 1, "image_id": numbers[image], "category_id": label + 1, "score": float(score), "iscrowd": 0}
        one |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        if of == "masks":
            assert detections.masks is not None
            one["segmentation"] = {"size": sizes[image], "counts": detections.masks[row]}
            one["area"] = float(coco_masks.area(one["segmentation"]))
        results.append(one)
    return results


def _numbers(truth: GroundTruth) -> list[int]:
    """The number of each image, from 1: its place in the order of the ids."""
    ids = np.arange(len(truth.sizes)) if truth.image_ids is None else truth.image_ids
    order: list[int] = (np.unique(ids, return_inverse=True)[1] + 1).tolist()
    return order
