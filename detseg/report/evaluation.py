"""The tables that all sections of a report on a detector are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.errors import DataError
from detseg.metrics.base import defined_mean
from detseg.metrics.bootstrap import bootstrap_ap, image_weights
from detseg.metrics.coco import Matches, detection_geometry, match_detections
from detseg.metrics.detections import Detections, GroundTruth
from detseg.metrics.operating_point import Curve, confused_with, precision_recall
from detseg.metrics.tide import Pairs, Tide, any_class_pairs, tide

THRESHOLDS = np.arange(1, 20) / 20  # of the slider

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
PIXEL_IMAGES, PIXEL_SIDE = 20, 64


class Cause(NamedTuple):
    """A reason for low or untrustworthy metrics."""

    name: str
    sentence: str
    cost: float  # share of the objects, or of AP, that it concerns: the order on the page
    images: Sequence[int] = ()  # evaluated images that show it


@dataclass(frozen=True, eq=False)
class DetectionRun:
    """An evaluation of a detector, and what is known about its training."""

    annotations: DetectionAnnotations  # of the evaluated split
    truth: GroundTruth  # its objects, with ``image_index`` as rows of ``annotations``
    detections: Detections
    classes: tuple[str, ...]
    metrics: Mapping[str, float]
    about: Mapping[str, str] = field(default_factory=dict)  # command, versions, digests, date
    train: DetectionAnnotations | None = None
    proposals: Floats | None = None  # (N, 5) best IoU of the objects with the ``stages.TOP`` proposals
    anchor_ious: Floats | None = None  # (N,) best IoU of the objects with an anchor
    normalization: tuple[Floats, Floats] | None = None  # mean and std (3,) of the backbone, of pixels 0..255
    history: Sequence[Mapping[str, float]] = ()  # rows of metrics.csv
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the training
    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)  # columns of the images, for slices

    def path(self, image: int) -> Any:
        """Path of an evaluated image."""
        return self.annotations.path(int(self.rows[image]))

    @cached_property
    def rows(self) -> Rows:
        """The row in ``annotations`` (I,) of each evaluated image."""
        index = self.truth.image_index
        return np.arange(len(self.truth.sizes)) if index is None else index

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        """Height and width (I, 2) of the evaluated images."""
        return self.annotations.sizes[self.rows]

    @cached_property
    def pixels(self) -> tuple[Floats, Floats] | None:
        """Mean and standard deviation (3,) of the pixels of some images; None if none can be read."""
        values = [
            np.asarray(cv2.resize(image, (PIXEL_SIDE, PIXEL_SIDE), interpolation=cv2.INTER_AREA)).reshape(-1, 3)
            for row in range(0, len(self.rows), max(1, len(self.rows) // PIXEL_IMAGES))
            if (image := self.image(row)) is not None
        ]
        table = np.concatenate(values).astype(np.float64) if values else None
        return None if table is None else (table.mean(axis=0), table.std(axis=0))

    def image(self, image: int) -> NDArray[np.uint8] | None:
        """The pixels (h, w, 3) of an evaluated image; None if it cannot be read."""
        height, width = self.sizes[image].tolist()
        try:
            return self.annotations.read_image(int(self.rows[image]), (height, width))
        except DataError:
            return None

    @cached_property
    def boxes(self) -> Evaluation:
        """The evaluation of boxes."""
        return Evaluation(self, "boxes")

    @cached_property
    def masks(self) -> Evaluation | None:
        """The evaluation of masks, if both sides have some."""
        given = self.truth.masks is not None and self.detections.masks is not None
        return Evaluation(self, "masks") if given else None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Detections of a run matched with its objects, by boxes or by masks; each table is computed once."""

    run: DetectionRun
    of: Literal["boxes", "masks"]

    @cached_property
    def _matched(self) -> tuple[Matches, Pairs]:
        truth, detections = self.run.truth, self.run.detections
        areas, overlaps = detection_geometry(truth, detections, self.of)
        matches = match_detections(truth, detections, areas, overlaps)
        return matches, any_class_pairs(truth, detections, matches, overlaps)

    @property
    def matches(self) -> Matches:
        return self._matched[0]

    @property
    def pairs(self) -> Pairs:
        return self._matched[1]

    @cached_property
    def labels(self) -> Rows:
        return self.run.detections.labels[self.matches.rows]

    @cached_property
    def scores(self) -> Floats:
        return self.run.detections.scores[self.matches.rows]

    @cached_property
    def images(self) -> Rows:
        return self.run.detections.images[self.matches.rows]

    @cached_property
    def tp(self) -> NDArray[np.bool_]:
        return self.matches.tp & 1 > 0

    @cached_property
    def fp(self) -> NDArray[np.bool_]:
        return self.matches.fp & 1 > 0

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        return self.matches.counted[:, 0]

    @cached_property
    def objects(self) -> Rows:
        """The number of objects (K,) of each class."""
        return np.bincount(self.run.truth.labels[self.counted], minlength=len(self.run.classes))

    @cached_property
    def tide(self) -> Tide:
        run = self.run
        return tide(run.truth, run.detections, self.matches, self.pairs, len(run.classes))

    @cached_property
    def confused(self) -> Rows:
        return confused_with(self.run.truth, self.run.detections, self.matches, self.pairs)

    @cached_property
    def best_iou(self) -> Floats:
        """The best IoU (N,) of each object with a detection of any class; below .1 it is 0."""
        best = np.zeros(len(self.counted))
        np.maximum.at(best, self.pairs.objects, self.pairs.iou)
        return best

    @cached_property
    def curves(self) -> list[Curve]:
        """Precision and recall of each class, and of all detections together."""
        decided = self.tp | self.fp
        of_classes = [
            precision_recall(self.scores[rows], self.tp[rows], int(count))
            for label, count in enumerate(self.objects)
            for rows in [decided & (self.labels == label)]
        ]
        return [*of_classes, precision_recall(self.scores[decided], self.tp[decided], int(self.objects.sum()))]

    @cached_property
    def threshold(self) -> float:
        """The threshold of the slider next to the score with the best F1; 0.5 without a true positive."""
        best = self.curves[-1].best_f1()
        return 0.5 if np.isnan(best) else float(THRESHOLDS[np.abs(THRESHOLDS - best).argmin()])

    @cached_property
    def replicates(self) -> NDArray[np.float32]:
        """AP (B, K, 10) in replicates of the bootstrap."""
        run = self.run
        weights = image_weights(len(run.truth.sizes), len(self.scores))
        return bootstrap_ap(run.truth, run.detections, self.matches, len(run.classes), weights)

    def replicates_of(self, name: Literal["AP", "AP50", "AP75"]) -> list[float]:
        """The mean (B,) over the classes in replicates of the bootstrap."""
        columns = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}[name]
        return [defined_mean(one) for one in self.replicates[:, :, columns].mean(axis=2)]

    def image_counts(self) -> NDArray[np.int64]:
        """True positives, false positives and misses (I, 3) of each image at ``threshold``."""
        kept, many = self.scores >= self.threshold, len(self.run.truth.sizes)
        tp, fp = (np.bincount(self.images[flags & kept], minlength=many) for flags in (self.tp, self.fp))
        objects = np.bincount(self.run.truth.images[self.counted], minlength=many)
        return np.stack([tp, fp, objects - tp], axis=1)
