"""Images with ground truth and predictions, drawn in each validation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from detseg.draw import draw, grid, overlay
from detseg.ops.rle import paste_mask
from detseg.structures import Batch, Instances
from detseg.tasks.detection import DetectionTask
from detseg.tasks.segmentation import SegmentationTask


class PredictionImages(Callback):
    """Draw the first ``count`` images of each validation: ground truth at the left, predictions at the right.

    For segmentation, the image alone comes first. The files go into ``folder``, by default ``pictures`` in the log
    folder of the trainer, and to TensorBoard. Detections are drawn from a score of ``threshold``.
    """

    def __init__(self, folder: str | Path | None = None, count: int = 4, threshold: float = 0.5) -> None:
        self.folder = None if folder is None else Path(folder)
        self.count, self.threshold = count, threshold
        self._drawn = 0

    def on_validation_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._drawn = 0
        if self.folder is None:  # here, on every rank: the trainer asks the first one for its log folder
            self.folder = Path(trainer.log_dir or trainer.default_root_dir) / "pictures"

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int, dataloader: int = 0
    ) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or outputs is None:
            return
        assert isinstance(module, (DetectionTask, SegmentationTask))
        assert self.folder is not None
        for row in range(min(len(batch.image_index), self.count - self._drawn)):
            if isinstance(module, SegmentationTask):
                picture = image_truth_and_labels(batch, outputs["labels"], row, module.class_names)
            else:
                picture = truth_and_prediction(batch, outputs["detections"], row, module.class_names, self.threshold)
            name = module.data.val_annotations.path(int(batch.image_index[row])).stem
            self.folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(self.folder / f"{name}.jpg")
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(name, picture, trainer.global_step, dataformats="HWC")
            self._drawn += 1


def truth_and_prediction(
    batch: Batch, detections: Instances, row: int, classes: Sequence[str], threshold: float
) -> NDArray[np.uint8]:
    """Draw one image of a batch twice, (H, W, 3): with its ground truth, and with its detections."""
    height, width = batch.image_sizes[row].tolist()
    image = batch.images[row, :, :height, :width].permute(1, 2, 0).cpu().numpy()
    assert detections.scores is not None
    pictures = []
    for objects in (batch.targets, detections._replace(valid=detections.valid & (detections.scores >= threshold))):
        valid = objects.valid[row]
        boxes, labels, scores = (
            None if column is None else column[row][valid].float().cpu().numpy()
            for column in (objects.boxes, objects.labels, objects.scores)
        )
        assert boxes is not None
        assert labels is not None
        masks: Iterable[NDArray[np.bool_]] = ()
        if objects.masks is not None:
            grids = objects.masks[row][valid].float().cpu().numpy()
            if objects is batch.targets:
                grids /= 255
            masks = (
                paste_mask(mask, box, height, width).full_mask(height, width)
                for mask, box in zip(grids, boxes, strict=True)
            )
        pictures.append(draw(image, boxes, labels, classes, scores, masks))
    return grid([pictures])


def image_truth_and_labels(batch: Batch, labels: Tensor, row: int, classes: Sequence[str]) -> NDArray[np.uint8]:
    """Draw one image of a batch, (H, W, 3), beside it the true labels and ``labels`` (B, H, W), each over the image."""
    height, width = batch.image_sizes[row].tolist()
    image = batch.images[row, :, :height, :width].permute(1, 2, 0).cpu().numpy()
    assert batch.semantic is not None
    maps = (map[row, :height, :width].cpu().numpy().astype(np.uint8) for map in (batch.semantic, labels))
    return grid([[image, *(overlay(image, one, classes) for one in maps)]])
