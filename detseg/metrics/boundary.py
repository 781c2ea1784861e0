"""Average precision of masks by their boundaries, which shows what the IoU of large masks hides."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from faster_coco_eval.core import mask as coco_masks
from numpy.typing import NDArray

from detseg.metrics.coco import COUNTS, SUMMARY, detection_geometry, evaluate, summarize
from detseg.metrics.detection_metric import DetectionMetric
from detseg.metrics.detections import Detections, GroundTruth
from detseg.metrics.matching import Floats, Rows
from detseg.metrics.table import format_values, side_by_side

WIDTH = 0.02  # of the boundary, as a share of the diagonal of the image
PREFIX = "boundary_"  # begins the names of the values
Masks = TypeVar("Masks", GroundTruth, Detections)


class BoundaryAP(DetectionMetric):
    """COCO's numbers of masks by the boundary IoU (Cheng et al. 2021, arXiv:2103.16562), between 0 and 1.

    Two masks overlap by the smaller of their IoU and the IoU of their boundaries: the pixels within 2 % of the image's
    diagonal from the edge of the mask. The names are those of ``CocoAP`` after ``boundary_``. Predictions and targets
    need masks; without any, there is no value.
    """

    uses_masks = True
    monitor_metrics = ("boundary_AP",)
    columns = MappingProxyType({"boundary": f"{PREFIX}AP"})

    def compute(self) -> dict[str, float]:
        truth, detections, classes = self.collect()
        if truth.masks is None or detections.masks is None:
            return {}
        areas, whole = detection_geometry(truth, detections, "masks")
        rims = boundaries(truth, truth.images, truth.sizes), boundaries(detections, detections.images, truth.sizes)
        _, rim = detection_geometry(*rims, "masks")

        def overlaps(index: Rows, objects: Rows) -> Floats:
            of_whole = whole(index, objects)
            return np.where(truth.crowd[objects], of_whole, np.minimum(of_whole, rim(index, objects)))

        precision, recall = evaluate(truth, detections, len(classes), areas, overlaps)
        return {f"{PREFIX}{name}": value for name, value in summarize(precision, recall, classes, COUNTS).items()}

    def summary(self, values: Mapping[str, float]) -> list[str]:
        shown = {f"{PREFIX}{name}": values[f"{PREFIX}{name}"] for name in SUMMARY if f"{PREFIX}{name}" in values}
        return side_by_side(format_values(shown), 3) if shown else []


def boundaries(masks: Masks, images: Rows, sizes: NDArray[np.int64]) -> Masks:
    """Replace the masks of objects or detections by their boundaries."""
    assert masks.masks is not None
    column = np.empty_like(masks.masks)
    for row, (image, counts) in enumerate(zip(images.tolist(), masks.masks, strict=True)):
        rle = {"size": sizes[image].tolist(), "counts": counts}
        column[row] = coco_masks.rleToBoundary(rle, WIDTH)["counts"]
    return masks._replace(masks=column)
