"""What a training leaves behind and shows: checkpoints, pictures, progress."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from detseg.draw import draw, grid, overlay
from detseg.ops.rle import paste_mask
from detseg.structures import Batch, Instances
from detseg.tasks.base import Task
from detseg.tasks.detection import DetectionTask
from detseg.tasks.figures import write_figures
from detseg.tasks.segmentation import SegmentationTask

log = logging.getLogger(__name__)

STAGE = "train/"  # what the names of training figures begin with


class LastCheckpoint(ModelCheckpoint):
    """Keep ``last.ckpt``, which a training is resumed from. (``save_last`` skips epochs that are not the best.)"""

    def __init__(self, folder: str | Path | None = None) -> None:
        # At the end of each epoch, also of one without a validation.
        super().__init__(folder, filename="last", enable_version_counter=False, save_on_train_epoch_end=True)


class BestCheckpoint(ModelCheckpoint):
    """Keep ``best.ckpt`` by ``figure``, and in ``metrics.json`` every figure of it."""

    def __init__(self, folder: str | Path | None = None, figure: str = "AP") -> None:
        super().__init__(folder, filename="best", monitor=f"val/{figure}", mode="max", enable_version_counter=False)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        best = self.best_model_score
        super().on_train_epoch_end(trainer, module)
        self._write_figures(trainer, best is not self.best_model_score)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        best = self.best_model_score
        super().on_validation_end(trainer, module)
        self._write_figures(trainer, best is not self.best_model_score)

    def _write_figures(self, trainer: Trainer, better: bool) -> None:
        if better and trainer.is_global_zero:
            assert isinstance(trainer.lightning_module, Task)
            write_figures(trainer.lightning_module.figures, Path(self.best_model_path).with_name("metrics.json"))


class PredictionImages(Callback):
    """Draw the first ``count`` validation images after each validation: truth at the left, predictions at the right.

    Of segmentation, the image alone comes first. They go into ``folder``, by default ``pictures`` in the trainer's log
    folder, and to TensorBoard. Predictions of objects are drawn from a score of ``threshold``.
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


class ProgressBar(RichProgressBar):
    """A bar for each epoch, with every loss of the last step."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=10)

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        columns = super().configure_columns(trainer)
        columns[1].bar_width = 12  # leaves room for the losses
        return columns

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        shown = super().get_metrics(trainer, module)
        return {name.removeprefix(STAGE): value for name, value in shown.items() if name.startswith(STAGE)}


class ProgressLog(Callback):
    """The same as a line in the log ``every`` so many batches, where no terminal can show a bar."""

    def __init__(self, every: int = 20) -> None:
        self.every = every

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        done, total = index + 1, trainer.num_training_batches
        if done % self.every == 0 or done == total:
            shown = [(name.removeprefix(STAGE), value) for name, value in trainer.progress_bar_metrics.items()]
            losses = " ".join(f"{name} {value:.3f}" for name, value in shown if name != "v_num")
            log.info("epoch %d, batch %d of %s: %s", trainer.current_epoch, done, total, losses)


def truth_and_prediction(
    batch: Batch, found: Instances, row: int, classes: Sequence[str], threshold: float
) -> NDArray[np.uint8]:
    """One image of a batch twice, (H, W, 3): with its ground truth, and with what was found in it."""
    height, width = batch.image_sizes[row].tolist()
    image = batch.images[row, :, :height, :width].permute(1, 2, 0).cpu().numpy()
    assert found.scores is not None
    pictures = []
    for objects in (batch.targets, found._replace(valid=found.valid & (found.scores >= threshold))):
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
    """One image of a batch, (H, W, 3), beside it its true labels, and those of ``labels`` (B, H, W), laid over it."""
    height, width = batch.image_sizes[row].tolist()
    image = batch.images[row, :, :height, :width].permute(1, 2, 0).cpu().numpy()
    assert batch.semantic is not None
    maps = (map[row, :height, :width].cpu().numpy().astype(np.uint8) for map in (batch.semantic, labels))
    return grid([[image, *(overlay(image, one, classes) for one in maps)]])
