"""Training and evaluating a classifier with Lightning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from detseg.data import ImageFolders, collate
from detseg.errors import ConfigError
from detseg.metrics import TopK
from detseg.models import Classifier
from detseg.modules.eval_mode import eval_mode
from detseg.structures import Batch, Sample
from detseg.tasks.base import Task


class ClassificationTask(Task):
    """Train and evaluate a classifier on ``ImageFolders``: ``Trainer(...).fit(ClassificationTask(model), data)``.

    The settings are those of ``Task``; by default they are ResNet's for ImageNet (section 3.4), over 90 epochs. After a
    validation ``figures`` holds the losses, ``top1`` and ``top5``, and ``top1`` of each class.
    """

    learns_from = ImageFolders
    headline = ("top1", "top5")

    def __init__(
        self,
        model: Classifier,
        lr: float = 0.1,
        reference_batch: int = 256,
        milestones: Sequence[int] = (30, 60),
        warmup_steps: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(model, lr, reference_batch, milestones=milestones, warmup_steps=warmup_steps, **settings)
        self._counts = TopK(model.num_classes)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        size = self.data.size
        whole, label = torch.tensor([[0.0, 0.0, size, size]]), torch.zeros(1, dtype=torch.int64)
        image = Sample(torch.zeros(3, size, size, dtype=torch.uint8), whole, label, 0, (size, size))
        batch = self.transfer_batch_to_device(collate([image], self.data.pad_shapes), self.device, 0)
        try:
            with eval_mode(self.model), torch.no_grad():
                self.model.loss(batch)
        except RuntimeError as error:
            name = type(self.model.backbone).__name__
            raise ConfigError(f"data.size {size}: too small for {name}: {error}") from error

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._counts = TopK(self.model.num_classes)

    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
        logits = self.model(batch.images)
        assert batch.targets.labels is not None
        labels = batch.targets.labels[:, 0]
        self._counts.add(logits, labels)
        return {"class": F.cross_entropy(logits, labels)}, {"logits": logits}

    def gather(self) -> None:
        self._counts.gather()

    def measure(self, rows: NDArray[np.int64]) -> dict[str, float]:
        return self._counts.figures(self.class_names)

    @staticmethod
    def table(figures: Mapping[str, float]) -> str:
        """The shares of right answers, over all images and for each class, for a terminal."""
        overall = [f"{name:<6} {100 * figures[name]:5.1f} %" for name in ("top1", "top5")]
        classes = sorted((name.removeprefix("top1/"), value) for name, value in figures.items() if "/" in name)
        width = max((len(name) for name, _ in classes), default=0)
        return "\n".join([*overall, "", *(f"{name:<{width}} {100 * value:5.1f} %" for name, value in classes)])
