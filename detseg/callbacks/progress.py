"""The progress of a training, on a terminal or in the log."""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

log = logging.getLogger(__name__)

STAGE = "train/"  # begins the names of values of training


class ProgressBar(RichProgressBar):
    """Show a bar for each epoch, with every loss of the last step."""

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
    """Log the losses after each ``every`` batches, without a terminal for a bar."""

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
