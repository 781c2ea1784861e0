"""Train and evaluate a model for semantic segmentation with Lightning."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from detseg.data import SegmentationDataModule
from detseg.errors import ConfigError
from detseg.metrics import SemanticIoU
from detseg.models import Segmenter
from detseg.models.tta import TTAConfig, predict_semantic
from detseg.ops.losses import median_frequency_weights
from detseg.structures import IGNORE_INDEX, Batch
from detseg.tasks.base import Task

log = logging.getLogger(__name__)


class SegmentationTask(Task):
    """Train and evaluate a segmenter on a ``SegmentationDataModule``: ``Trainer(...).fit(task, data)``.

    ``class_weights`` "median_frequency" gives rare classes more weight in the cross entropy (see
    ``ops.losses.median_frequency_weights``; every label file is read once for it). The other settings are those of
    ``Task``. ``metrics`` are by default ``SemanticIoU``; they are updated with predicted and labelled classes (B, H, W)
    of the images at their original size; ``tta`` sets the test-time augmentation. A class without a labelled pixel,
    in the first epoch or in a validation, is named in a warning: the other values may be perfect without it.
    """

    datamodule_cls = SegmentationDataModule

    def __init__(
        self,
        model: Segmenter,
        metrics: Sequence[Metric] | None = None,
        class_weights: Literal["median_frequency"] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model, metrics, **settings)
        if class_weights and model.criterion != "cross_entropy":
            raise ConfigError(f"class_weights: {model.criterion} has none; use the cross entropy, or no class weights")
        self.class_weights = class_weights
        self.tta = TTAConfig()
        self._labelled: Tensor | None = None  # (256,) 1 for each label of the first epoch
        self._warned: set[str] = set()

    @staticmethod
    def default_metrics() -> list[Metric]:
        return [SemanticIoU()]

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.class_weights:
            counts = torch.from_numpy(self.data.train_annotations.counts())
            self.model.class_weights.copy_(median_frequency_weights(counts))

    def on_train_start(self) -> None:
        self._labelled = torch.zeros(IGNORE_INDEX + 1, dtype=torch.uint8, device=self.device)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        if self._labelled is not None:
            assert batch.semantic is not None
            self._labelled.index_fill_(0, batch.semantic.flatten(), 1)
        return super().training_step(batch, index)

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if self._labelled is not None:
            of_all = torch.as_tensor(self.all_gather(self._labelled)).view(-1, IGNORE_INDEX + 1).amax(dim=0)
            self._labelled = None
            absent = [name for name, count in zip(self.class_names, of_all.tolist(), strict=False) if not count]
            self._warn_of_absent(absent, "the first epoch", "the model does not learn them")

    def _warn_of_absent(self, absent: Sequence[str], where: str, effect: str) -> None:
        """Name once the classes without a labelled pixel."""
        if absent and where not in self._warned and self.trainer.is_global_zero:
            self._warned.add(where)
            log.warning(
                "%s has no pixel that is labelled %s: %s. In label images, %d means void, which is not a class; if "
                "it is meant for one, write the number of that class (0 to %d)",
                *(where, ", ".join(absent), effect, IGNORE_INDEX, len(self.class_names) - 1),
            )

    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
        assert batch.semantic is not None
        losses: dict[str, Tensor] = {}
        if self.predictor:
            labels = torch.zeros_like(batch.semantic)
            for row, result in enumerate(self.predictor(batch)):
                height, width = result.labels.shape
                labels[row, :height, :width] = torch.from_numpy(result.labels)
        else:
            losses, logits = self.model.validate(batch)
            labels = logits.argmax(dim=1)
            if self.tta != TTAConfig():
                labels = predict_semantic(self.model, batch.images, batch.image_sizes, self.tta)
        for metric in self.metrics:
            if isinstance(metric, SemanticIoU):
                metric.update(labels, batch.semantic, batch.image_sizes)
            else:
                metric.update(labels, batch.semantic)
        return losses, {"labels": labels}

    def compute_metrics(self) -> dict[str, float]:
        values = super().compute_metrics()
        absent = [name for name in self.class_names if math.isnan(values.get(f"accuracy/{name}", 0.0))]
        self._warn_of_absent(absent, "the validation", "the metrics do not measure them")
        return values
