"""Training and evaluating a detector with Lightning."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import Tensor

from detseg.data import DetectionDataModule
from detseg.errors import ConfigError
from detseg.metrics import Collector, Detections
from detseg.models import Detector
from detseg.structures import Batch, Instances, rescale
from detseg.tasks.base import Task
from detseg.tasks.figures import average_precision, explain_zero, figures_table
from detseg.weights.torchvision import match_classes

log = logging.getLogger(__name__)


class DetectionTask(Task):
    """Train and evaluate a detector on a ``DetectionDataModule``: ``Trainer(...).fit(DetectionTask(model), data)``.

    The settings are those of ``Task``. After a validation ``figures`` holds the losses, the COCO and the VOC average
    precision by name, of masks as well if the network finds them, and ``detections`` what was found, in pixels of the
    image files.
    """

    learns_from = DetectionDataModule
    headline: Sequence[str] = ("AP", "AP50")

    def __init__(self, model: Detector, **settings: Any) -> None:
        super().__init__(model, **settings)
        if model.needs_masks:
            self.headline = ("mask_AP", "mask_AP50", "AP", "AP50")
        self.detections: Detections | None = None
        self._collector = Collector(model.needs_masks)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.model.needs_masks and self.data.masks == "none":
            raise ConfigError(f'{type(self.model).__name__} learns from masks: build the data with masks="all"')
        match_classes(self.model, self.class_names)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._collector.reset()

    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Mapping[str, Instances]]:
        losses, found = self.model.validate(batch)
        self._collector.add(
            batch.image_index, rescale(found, batch.image_sizes, batch.original_sizes), batch.original_sizes
        )
        return losses, {"detections": found}

    def gather(self) -> None:
        self.detections = self._collector.gather()
        self._collector.reset()

    def measure(self, rows: NDArray[np.int64]) -> dict[str, float]:
        assert self.detections is not None
        return average_precision(self.data.val_annotations, self.detections, rows)

    @staticmethod
    def table(figures: Mapping[str, float]) -> str:
        return figures_table(figures)

    def on_fit_end(self) -> None:
        self._explain()

    def on_validation_end(self) -> None:
        if self.trainer.state.fn != TrainerFn.FITTING:
            self._explain()

    def _explain(self) -> None:
        if self.figures.get("AP") == 0 and self.detections is not None and self.trainer.is_global_zero:
            log.warning(explain_zero(self.data.val_annotations, self.detections))
