"""Average precision and recall as the COCO benchmark defines them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from detseg.data.annotations import Annotations
from detseg.metrics.detections import Detections
from detseg.ops.runs import area, from_text

log = logging.getLogger(__name__)


def coco_ap(
    annotations: Annotations, detections: Detections, of: Literal["boxes", "masks"] = "boxes"
) -> dict[str, float]:
    """The 12 numbers of the COCO benchmark, and ``AP/<class>`` for every class, all between 0 and 1.

    ``AP`` is the mean over the IoU thresholds .50:.05:.95, ``AP_small`` and so on that of the objects whose ``areas``
    lie in the range, ``AR_10`` the recall with 10 detections in an image; everything else counts 100. ``of`` masks,
    which both sides must have, it is their pixels that overlap.

    Crowds are ignored as COCO does. So are difficult objects, which COCO does not have: finding one is neither right
    nor wrong, as in VOC. A number that no object defines is nan (pycocotools says -1), and means leave it out.
    """
    evaluation = _evaluate(annotations, detections, of)
    precision = evaluation["precision"]  # (10 thresholds, 101 recalls, K, 4 areas, 3 detection counts), -1 undefined
    recall = evaluation["recall"]  # (10, K, 4, 3)
    result = {"AP": precision[..., 0, 2], "AP50": precision[0, ..., 0, 2], "AP75": precision[5, ..., 0, 2]}
    sizes = {"small": 1, "medium": 2, "large": 3}
    result |= {f"AP_{size}": precision[..., area, 2] for size, area in sizes.items()}
    result |= {f"AR_{count}": recall[..., 0, row] for row, count in enumerate((1, 10, 100))}
    result |= {f"AR_{size}": recall[..., area, 2] for size, area in sizes.items()}
    result |= {f"AP/{name}": precision[:, :, label, 0, 2] for label, name in enumerate(annotations.classes)}
    return {name: _mean(values) for name, values in result.items()}


def coco_results(annotations: Annotations, detections: Detections) -> list[dict[str, Any]]:
    """Detections in the COCO result format: the data set's own image and category ids, boxes as x, y, width, height.

    Masks are run lengths. (Where a result has both, pycocotools takes its area from the box: take ``bbox`` out for its
    AP of small, medium and large masks.) Detections of classes that the data set does not have cannot be said in its
    ids; they are left out, and counted in the log.
    """
    categories = np.asarray(annotations.category_ids, dtype=np.int64)[detections.labels]
    known = categories >= 0
    if not known.all():
        log.warning("%d detections are of classes that the data set does not have: left out", np.sum(~known))
    rows = zip(
        annotations.image_ids[detections.images[known]].tolist(),
        categories[known].tolist(),
        _xywh(detections.boxes[known]).tolist(),
        detections.scores[known].tolist(),
        strict=True,
    )
    keys = ("image_id", "category_id", "bbox", "score")
    results = [dict(zip(keys, row, strict=True)) for row in rows]
    if detections.masks is not None:
        sizes = annotations.sizes[detections.images[known]].tolist()
        for result, size, runs in zip(results, sizes, detections.masks[known], strict=True):
            result["segmentation"] = {"size": size, "counts": runs.decode()}
    return results


def _evaluate(
    annotations: Annotations, detections: Detections, of: Literal["boxes", "masks"]
) -> dict[str, NDArray[np.float64]]:
    """Run the evaluation over the arrays, and return its tables."""
    # pycocotools takes images in the order of their ids, and detections of equal score in the order of their images.
    images = np.unique(annotations.image_ids, return_inverse=True)[1]
    counts = np.diff(annotations.offsets)
    # COCO ignores an object outside the area range in question; a difficult one is put outside all of them.
    areas = np.where(annotations.difficult, np.inf, annotations.areas)
    truth: dict[str, NDArray[Any]] = {
        "image_id": np.repeat(images, counts),
        "category_id": annotations.labels,
        "bbox": _xywh(annotations.boxes),
        "area": areas,
        "iscrowd": annotations.crowd.astype(np.int64),
    }
    boxes = _xywh(detections.boxes)
    found: dict[str, NDArray[Any]] = {
        "image_id": images[detections.images],
        "category_id": detections.labels,
        "bbox": boxes,
        "area": boxes[:, 2] * boxes[:, 3],
        "score": detections.scores,
    }
    if of == "masks":
        assert detections.masks is not None
        assert annotations.masks is not None
        owners = np.repeat(np.arange(len(annotations)), counts)
        masks = [annotations.masks.runs(row, *size) for row, size in enumerate(annotations.sizes[owners].tolist())]
        truth["segmentation"] = _segmentations(annotations, owners, masks)
        found["segmentation"] = _segmentations(annotations, detections.images, detections.masks)
        found["area"] = np.array([area(from_text(runs)) for runs in detections.masks], dtype=np.float64)
    index = [_index(annotations, columns) for columns in (truth, found)]
    evaluation = COCOeval_faster(*index, iouType="bbox" if of == "boxes" else "segm", print_function=_silent)
    evaluation.evaluate()
    evaluation.accumulate()
    return {name: np.asarray(evaluation.eval[name]) for name in ("precision", "recall")}


def _segmentations(annotations: Annotations, images: NDArray[np.int64], runs: Iterable[bytes]) -> NDArray[np.object_]:
    """Run lengths of objects of some images as COCO has them."""
    sizes = annotations.sizes[images].tolist()
    column = np.empty(len(sizes), dtype=object)
    column[:] = [{"size": size, "counts": text} for size, text in zip(sizes, runs, strict=True)]
    return column


def _index(annotations: Annotations, columns: dict[str, NDArray[Any]]) -> COCO:
    """A COCO data set in memory, with our rows for ids; ids of objects count from 1, since COCO reads 0 as none."""
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    dataset = {
        "images": [
            {"id": image, "height": height, "width": width}
            for image, (height, width) in enumerate(annotations.sizes.tolist())
        ],
        "categories": [{"id": label, "name": name} for label, name in enumerate(annotations.classes)],
        "annotations": [{"id": number, **dict(zip(columns, row, strict=True))} for number, row in enumerate(rows, 1)],
    }
    return COCO(dataset, print_function=_silent)


def _xywh(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


def _silent(*_: object) -> None:
    """Instead of the library's progress messages."""
