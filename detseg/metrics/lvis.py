"""Average precision as the LVIS benchmark defines it, whose classes were not all searched in each image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.errors import DataError, explain_content
from detseg.metrics.base import defined_mean
from detseg.metrics.coco import MASKS, detection_geometry, evaluate, format_summary, summarize
from detseg.metrics.detection_metric import DetectionMetric
from detseg.metrics.detections import Detections, GroundTruth
from detseg.metrics.matching import rank

COUNT = 300  # detections in an image, of all classes together
FREQUENCIES = MappingProxyType({"r": "rare", "c": "common", "f": "frequent"})
SUMMARY: tuple[str, ...] = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
SUMMARY += (*(f"AP_{name}" for name in FREQUENCIES.values()), f"AR_{COUNT}", "AR_small", "AR_medium", "AR_large")


class LvisAP(DetectionMetric):
    """The numbers of the LVIS benchmark (Gupta et al. 2019, arXiv:1908.03195, section 2.2) and the AP of every class.

    They are those of ``CocoAP``, between 0 and 1, with three differences. The 300 best detections of an image count.
    A detection counts only if its class was searched in the image: objects of it are annotated there, or it is one of
    the image's ``neg_category_ids``. And where a class is one of the ``not_exhaustive_category_ids`` of an image, its
    detections that match no object do not count. ``AP_rare``, ``AP_common`` and ``AP_frequent`` are the means over the
    classes of each ``frequency``.

    ``annotations`` is the file of the benchmark from which all this is read, by image id and class name, at the first
    ``compute``.
    """

    uses_masks = True
    monitor_metrics = ("AP", "AP_rare")
    columns = MappingProxyType({"AP": "AP", "mask": f"{MASKS}AP"})

    def __init__(self, annotations: str, classes: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(classes, **kwargs)
        self.annotations = annotations
        self._file: dict[str, Any] = {}

    def compute(self) -> dict[str, float]:
        truth, detections, classes = self.collect()
        if truth.image_ids is None:
            raise ValueError("LvisAP needs the image_id of each target, by which the annotation file describes images")
        self._file = self._file or read_rules(Path(self.annotations))
        rules = rules_of(self._file, truth.image_ids.tolist(), classes, self.annotations)
        values = lvis_ap(truth, detections, classes, rules)
        if detections.masks is not None and truth.masks is not None:
            of_masks = lvis_ap(truth, detections, classes, rules, masks=True)
            values |= {f"{MASKS}{name}": value for name, value in of_masks.items()}
        return values

    def summary(self, values: Mapping[str, float]) -> list[str]:
        return format_summary(values, SUMMARY)


class Rules(NamedTuple):
    """The classes of I images that are known to be absent, or of which not all objects are annotated."""

    absent: NDArray[np.int64]  # (P,) image x K + label
    incomplete: NDArray[np.int64]  # (Q,) image x K + label
    frequencies: NDArray[np.str_]  # (K,) r, c or f


def lvis_ap(
    truth: GroundTruth, detections: Detections, classes: tuple[str, ...], rules: Rules, masks: bool = False
) -> dict[str, float]:
    """The values of ``LvisAP`` of boxes or of ``masks``."""
    by_score = np.lexsort((-detections.scores, detections.images))
    best = np.sort(by_score[rank(detections.images[by_score]) < COUNT])
    pairs = detections.images * len(classes) + detections.labels
    searched = np.union1d(truth.images * len(classes) + truth.labels, rules.absent)
    rows = best[np.isin(pairs[best], searched)]
    columns: list[Any] = [None if column is None else column[rows] for column in detections]
    detections = Detections(*columns)
    geometry = detection_geometry(truth, detections, "masks" if masks else "boxes")
    incomplete = np.isin(pairs[rows], rules.incomplete)
    precision, recall = evaluate(truth, detections, len(classes), *geometry, (COUNT,), incomplete)
    values = summarize(precision, recall, classes, (COUNT,))
    for letter, name in FREQUENCIES.items():
        values[f"AP_{name}"] = defined_mean(precision[rules.frequencies == letter, 0])
    return values


def read_rules(path: Path) -> dict[str, Any]:
    """Read what the rules need of an annotation file: ``images`` by id and ``categories`` by name.

    Raises DataError for a file that cannot be read, or is not one of LVIS.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:  # no JSON, or no text
        raise DataError(f"{path}: cannot be read by LvisAP: {explain_content(path) or error}") from error
    try:
        return {
            "images": {
                image["id"]: (image["neg_category_ids"], image["not_exhaustive_category_ids"])
                for image in content["images"]
            },
            "categories": {one["name"]: (one["id"], one["frequency"]) for one in content["categories"]},
        }
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: is not an LVIS annotation file, which LvisAP needs: {error!r}") from error


def rules_of(file: Mapping[str, Any], image_ids: Sequence[Any], classes: Sequence[str], name: str) -> Rules:
    """Select the rules of some images and classes. Raises DataError for one that the file ``name`` does not have."""
    images, categories = file["images"], file["categories"]
    unknown = [f"image {one}" for one in image_ids if one not in images]
    unknown += [f"class {one}" for one in classes if one not in categories]
    if unknown:
        raise DataError(f"{name}: has no {unknown[0]} ({len(unknown)} are missing); name the file of these images")
    labels = {categories[one][0]: label for label, one in enumerate(classes)}

    def pairs(column: int) -> NDArray[np.int64]:
        listed = (
            row * len(classes) + labels[category]
            for row, image_id in enumerate(image_ids)
            for category in images[image_id][column]
            if category in labels
        )
        return np.fromiter(listed, dtype=np.int64)

    return Rules(pairs(0), pairs(1), np.array([categories[one][1] for one in classes], dtype=str))
