"""Training and evaluating a network for semantic segmentation with Lightning."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detseg.data import SegmentationDataModule
from detseg.errors import ConfigError
from detseg.metrics import Confusion, segmentation_table
from detseg.models import Segmenter
from detseg.models.tta import TTAConfig, predict_semantic
from detseg.ops.losses import median_frequency_weights
from detseg.structures import IGNORE_INDEX, Batch
from detseg.tasks.base import Task

log = logging.getLogger(__name__)

OVERALL = ("pixel_accuracy", "mean_accuracy", "mean_IoU", "frequency_weighted_IoU", "mean_boundary_IoU")


class SegmentationTask(Task):
    """Train and evaluate a segmenter on a ``SegmentationDataModule``: ``Trainer(...).fit(task, data)``.

    ``class_weights`` "median_frequency" makes rare classes count more in the cross entropy (see
    ``ops.losses.median_frequency_weights``; every label file is read once for it). The other settings are those of
    ``Task``. After a validation ``figures`` holds the losses and the figures of ``metrics.Confusion``, over the images
    at their original size; ``tta`` is their test-time augmentation. A class of which no pixel is labelled, in the first
    epoch or in a validation, is named in a warning: the other figures may be perfect without it.
    """

    learns_from = SegmentationDataModule
    headline = ("mean_IoU", "pixel_accuracy")

    def __init__(
        self, model: Segmenter, class_weights: Literal["median_frequency"] | None = None, **settings: Any
    ) -> None:
        super().__init__(model, **settings)
        if class_weights and model.criterion != "cross_entropy":
            raise ConfigError(f"task.class_weights: {model.criterion} has none; take criterion cross_entropy, or null")
        self.class_weights = class_weights
        self.tta = TTAConfig()
        self._confusion = Confusion(model.num_classes)
        self._labelled: Tensor | None = None  # (256,) 1 for each label that the first epoch has shown
        self._warned: set[str] = set()

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
            self._warn_of_absent(of_all.cpu().numpy(), "the first epoch", "nothing is learnt of them")

    def _warn_of_absent(self, labelled: NDArray[Any], where: str, effect: str) -> None:
        """Name the classes of which nothing is ``labelled`` (K or more,), once."""
        absent = [name for name, count in zip(self.class_names, labelled, strict=False) if not count]
        if absent and where not in self._warned and self.trainer.is_global_zero:
            self._warned.add(where)
            log.warning(
                "%s has no pixel that is labelled %s: %s. In label images, %d means void, which is no class: if it is "
                "meant for one, write the number of that class (0 to %d)",
                *(where, ", ".join(absent), effect, IGNORE_INDEX, len(self.class_names) - 1),
            )

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._confusion.reset()

    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
        losses, logits = self.model.validate(batch)
        if self.tta == TTAConfig():
            labels = logits.argmax(dim=1)
        else:
            labels = predict_semantic(self.model, batch.images, batch.image_sizes, self.tta)
        assert batch.semantic is not None
        self._confusion.add(labels, batch.semantic, batch.image_sizes)
        return losses, {"labels": labels}

    def gather(self) -> None:
        self._confusion = self._confusion.gather()

    def measure(self, rows: NDArray[np.int64]) -> dict[str, float]:
        labelled = self._confusion.matrix.sum(dim=1).numpy()
        self._warn_of_absent(labelled, "the validation", "the figures say nothing of them")
        return self._confusion.figures(self.class_names)

    @staticmethod
    def table(figures: Mapping[str, float]) -> str:
        """The figures of ``metrics.Confusion`` in per cent, for a terminal."""
        measured = {name: value for name, value in figures.items() if "/" in name or name in OVERALL}
        return segmentation_table(measured)
