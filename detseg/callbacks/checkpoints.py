"""The checkpoints that a training keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from detseg.metrics import write_metrics
from detseg.tasks.base import Task


class LastCheckpoint(ModelCheckpoint):
    """Keep ``last.ckpt``, from which training resumes. (``save_last`` skips epochs that are not the best.)"""

    def __init__(self, folder: str | Path | None = None) -> None:
        # At the end of each epoch, also of one without a validation.
        super().__init__(folder, filename="last", enable_version_counter=False, save_on_train_epoch_end=True)


class BestCheckpoint(ModelCheckpoint):
    """Keep ``best.ckpt``, with the best value of ``metric``, and all its values in ``metrics.json``.

    The best value is the highest, or the lowest with ``mode`` "min".
    """

    def __init__(
        self, folder: str | Path | None = None, metric: str = "AP", mode: Literal["min", "max"] = "max"
    ) -> None:
        super().__init__(folder, filename="best", monitor=f"val/{metric}", mode=mode, enable_version_counter=False)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        best = self.best_model_score
        super().on_train_epoch_end(trainer, module)
        self._write_metrics(trainer, best is not self.best_model_score)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        best = self.best_model_score
        super().on_validation_end(trainer, module)
        self._write_metrics(trainer, best is not self.best_model_score)

    def _write_metrics(self, trainer: Trainer, improved: bool) -> None:
        if improved and trainer.is_global_zero:
            assert isinstance(trainer.lightning_module, Task)
            write_metrics(trainer.lightning_module.metric_values, Path(self.best_model_path).with_name("metrics.json"))
