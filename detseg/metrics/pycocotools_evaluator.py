"""The official numbers of the COCO benchmark: pycocotools, beside which ``CocoAP`` can be held at run time."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detseg.metrics.coco import MASKS, SUMMARY, detection_geometry, image_order, xywh
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
        flags = {"iscrowd": truth.crowd.astype(int), "difficult": truth.difficult}
        expected = _coco(truth, truth, classes, of, area=truth.areas, **flags)
        # The area that ``COCO.loadRes`` gives a detection: of the box, or of the mask alone.
        of_detections = detection_geometry(truth, detections, of)[0]
        flags = {"iscrowd": np.zeros(len(of_detections), int)}
        predicted = _coco(truth, detections, classes, of, area=of_detections, score=detections.scores, **flags)
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


def _coco(
    truth: GroundTruth, objects: GroundTruth | Detections, classes: Sequence[str], of: str, **columns: NDArray[Any]
) -> COCO:
    """An indexed data set of objects on the images of ``truth``, with ``columns`` of theirs.

    Images are numbered in the order of their ids, categories and objects from 1.
    """
    numbers, sizes = image_order(truth).tolist(), truth.sizes.tolist()
    columns = {"image": objects.images, "box": xywh(objects.boxes), "label": objects.labels, **columns}
    annotations = []
    for row, (image, box, label, *values) in enumerate(zip(*(one.tolist() for one in columns.values()), strict=True)):
        one = {"id": row + 1, "image_id": numbers[image], "category_id": label + 1, "bbox": box}
        if of == "masks":
            assert objects.masks is not None
            one["segmentation"] = {"size": sizes[image], "counts": objects.masks[row]}
        annotations.append(one | dict(zip([*columns][3:], values, strict=True)))
    coco = COCO()
    coco.dataset = {
        "images": [{"id": id, "height": size[0], "width": size[1]} for id, size in zip(numbers, sizes, strict=True)],
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(classes)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco
