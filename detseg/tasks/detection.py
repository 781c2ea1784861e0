"""Train and evaluate a detector with Lightning."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics import Metric

from detseg.data import DetectionDataModule
from detseg.errors import ConfigError
from detseg.metrics import CocoAP, DetectionMetric, Detections, VocAP, annotation_targets
from detseg.metrics.detection_metric import as_torchmetrics
from detseg.metrics.detections import ImageDict
from detseg.metrics.zero_ap import explain_zero_ap
from detseg.structures import Batch, Instances, rescale
from detseg.tasks.base import Task
from detseg.weights.torchvision import match_classes

log = logging.getLogger(__name__)


class DetectionTask(Task):
    """Train and evaluate a detector on a ``DetectionDataModule``: ``Trainer(...).fit(DetectionTask(model), data)``.

    The other settings are those of ``Task``. ``metrics`` are by default the average precision of COCO and of VOC 2007
    and 2010, of masks as well if the model predicts them. A ``DetectionMetric`` is updated with ``Instances``, any
    other with the lists of dictionaries that the detection metrics of torchmetrics take.
    """

    datamodule_cls = DetectionDataModule

    @staticmethod
    def default_metrics() -> list[Metric]:
        return [CocoAP(), VocAP(2007), VocAP(2010)]

    @property
    def monitor_metrics(self) -> tuple[str, ...]:
        names = super().monitor_metrics
        if self.model.needs_masks and isinstance(self.metrics[0], CocoAP):
            return (*(f"mask_{name}" for name in names), *names)
        return names

    @property
    def detection_metric(self) -> DetectionMetric | None:
        """The first of the metrics that accumulate detections."""
        return next((metric for metric in self.metrics if isinstance(metric, DetectionMetric)), None)

    @property
    def detections(self) -> Detections | None:
        """The detections of the last validation by the row of their image in ``data.val_annotations``."""
        metric = self.detection_metric
        if metric is None or metric.detections is None or metric.ground_truth is None:
            return None
        rows = metric.ground_truth.image_index
        assert rows is not None
        return metric.detections._replace(images=rows[metric.detections.images])

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.model.needs_masks and self.data.masks == "none":
            raise ConfigError(f'{type(self.model).__name__} learns from masks: build the data with masks="all"')
        match_classes(self.model, self.class_names)

    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Mapping[str, Instances]]:
        targets = self.targets(batch)
        if self.predictor:
            self.update_metrics([result.to_torchmetrics() for result in self.predictor(batch)], targets)
            return {}, {}
        losses, detections = self.model.validate(batch)
        self.update_metrics(rescale(detections, batch.image_sizes, batch.original_sizes), targets)
        return losses, {"detections": detections}

    def targets(self, batch: Batch) -> list[dict[str, Any]]:
        """All annotated objects of the validation images of a batch. Waits for the device, so call it first."""
        return annotation_targets(self.data.val_annotations, batch.image_index.tolist())

    def update_metrics(self, detections: Instances | Sequence[ImageDict], targets: Sequence[Mapping[str, Any]]) -> None:
        """Update all metrics with detections in pixels of the image files, a batch or a dictionary of each image."""
        for metric in self.metrics:
            if isinstance(metric, DetectionMetric):
                metric.update(detections, targets)
            else:
                metric.update(*as_torchmetrics(detections, targets))

    def on_fit_end(self) -> None:
        self._explain()

    def on_validation_end(self) -> None:
        if self.trainer.state.fn != TrainerFn.FITTING:
            self._explain()

    def _explain(self) -> None:
        metric = self.detection_metric
        if self.metric_values.get("AP") == 0 and metric is not None and self.trainer.is_global_zero:
            assert metric.ground_truth is not None
            assert metric.detections is not None
            log.warning(explain_zero_ap(metric.ground_truth, metric.detections, self.class_names))
