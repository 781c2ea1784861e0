"""Outputs of a validation that no metric keeps, image by image, for a report."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from detseg.metrics.semantic import pixel_matrix
from detseg.metrics.stages import proposal_overlaps
from detseg.structures import Batch, Instances, rescale
from detseg.tasks import ClassificationTask, DetectionTask, SegmentationTask

TOP = 5  # classes of an image
THUMBNAIL = 256  # longest side of the stored labels


class OutputRecorder(Callback):
    """Record each image of the last validation, of this rank, in ``records`` by its row in ``data.val_annotations``.

    For a two-stage detector, the best IoU (n, 5) of the objects with the first proposals (``proposal_overlaps``); for
    segmentation, the pixels (K, K) by label and prediction, and small predicted labels (h, w); for classification,
    label, and the best classes with their scores.
    """

    def __init__(self) -> None:
        self.records: dict[int, Any] = {}
        self._proposals: Instances | None = None
        self._hook: Any = None

    def on_validation_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.records.clear()
        heads = getattr(module.model, "roi_heads", None)
        if isinstance(heads, nn.Module) and not module.predictor:  # of several views no proposals are recorded
            self._hook = heads.register_forward_pre_hook(self._keep_proposals)

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._proposals = None

    def _keep_proposals(self, heads: nn.Module, arguments: tuple[Any, ...]) -> None:
        self._proposals = arguments[1]

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int, dataloader: int = 0
    ) -> None:
        if outputs is None or trainer.sanity_checking:
            return
        if isinstance(module, DetectionTask):
            self._record_proposals(module, batch)
        elif isinstance(module, SegmentationTask):
            for row, image in enumerate(batch.image_index.tolist()):
                self.records[image] = _semantic_record(batch, outputs["labels"], row, len(module.class_names))
        elif isinstance(module, ClassificationTask):
            scores, labels = outputs["logits"].softmax(dim=1).topk(min(TOP, module.model.num_classes))
            columns = (batch.targets.labels[:, 0], labels, scores)
            for image, *record in zip(*(one.tolist() for one in (batch.image_index, *columns)), strict=True):
                self.records[image] = tuple(record)

    def _record_proposals(self, module: DetectionTask, batch: Batch) -> None:
        if self._proposals is None:
            return
        proposals = rescale(self._proposals, batch.image_sizes, batch.original_sizes)
        annotations = module.data.val_annotations
        for row, image in enumerate(batch.image_index.tolist()):
            boxes = proposals.boxes[row][proposals.valid[row]].double().cpu().numpy()
            self.records[image] = proposal_overlaps(annotations.boxes[annotations.objects(image)], boxes)
        self._proposals = None


def _semantic_record(batch: Batch, labels: Tensor, row: int, classes: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """The pixels of one image by label and prediction, and its predicted labels, made small."""
    height, width = batch.image_sizes[row].tolist()
    assert batch.semantic is not None
    predicted, target = labels[row, :height, :width], batch.semantic[row, :height, :width]
    step = max(1, -(-max(height, width) // THUMBNAIL))
    matrix = pixel_matrix(predicted.to(torch.int64), target, classes)
    return matrix.cpu().numpy(), predicted[::step, ::step].to(torch.uint8).cpu().numpy()
