"""Train and evaluate a classifier with Lightning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from detseg.data import ClassificationDataModule, collate
from detseg.errors import ConfigError
from detseg.metrics import TopKAccuracy
from detseg.models import Classifier
from detseg.modules.eval_mode import eval_mode
from detseg.structures import Batch, Sample
from detseg.tasks.base import Task
from detseg.tasks.optimization import ScheduleConfig


class ClassificationTask(Task):
    """Train and evaluate a classifier: ``Trainer(...).fit(ClassificationTask(model), ClassificationDataModule(...))``.

    The other settings are those of ``Task``; the defaults are ResNet's for ImageNet (He et al. 2015, section 3.4). The
    milestones are torchvision's for 90 epochs; the paper lowers the rate when the error plateaus.
    ``metrics`` are by default ``TopKAccuracy``; they are updated with logits (B, K) and classes (B,).
    """

    datamodule_cls = ClassificationDataModule

    def __init__(
        self,
        model: Classifier,
        metrics: Sequence[Metric] | None = None,
        lr: float = 0.1,
        reference_batch: int = 256,
        schedule: ScheduleConfig = ScheduleConfig(milestones=(30, 60), warmup_steps=0),  # noqa: B008 - frozen
        **settings: Any,
    ) -> None:
        super().__init__(model, metrics, lr, reference_batch, schedule=schedule, **settings)

    @staticmethod
    def default_metrics() -> list[Metric]:
        return [TopKAccuracy()]

    def setup(self, stage: str) -> None:
        super().setup(stage)
        size = self.data.preprocessing.size
        whole, label = torch.tensor([[0.0, 0.0, size, size]]), torch.zeros(1, dtype=torch.int64)
        image = Sample(torch.zeros(3, size, size, dtype=torch.uint8), whole, label, 0, (size, size))
        batch = self.transfer_batch_to_device(collate([image], self.data.pad_shapes), self.device, 0)
        try:
            with eval_mode(self.model), torch.no_grad():
                self.model.loss(batch)
        except RuntimeError as error:
            name = type(self.model.backbone).__name__
            raise ConfigError(f"transforms: RandomResizedCrop: size {size} is too small for {name}: {error}") from error

    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
        assert batch.targets.labels is not None
        labels = batch.targets.labels[:, 0]
        if self.predictor:
            scores = [result.scores[result.labels.argsort()] for result in self.predictor(batch)]
            logits = torch.tensor(np.array(scores), device=labels.device).log()
        else:
            logits = self.model(batch.images)
        for metric in self.metrics:
            metric.update(logits, labels)
        if self.predictor:
            return {}, {"logits": logits}
        return {"loss_classifier": F.cross_entropy(logits, labels)}, {"logits": logits}
