"""The checkpoints that a training keeps."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import is_tensor
from torch.utils._pytree import tree_map

from detseg.metrics import write_metrics
from detseg.tasks.base import Task
from detseg.weights import checkpoint_file

log = logging.getLogger(__name__)

# Exit status after a signal; clusters send the first two to take a machine back, and 75 is "try again" of sysexits.h.
STATUS = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}
ASK_EVERY = 10  # steps between two decisions that all ranks take together


class SafeCheckpointIO(TorchCheckpointIO):
    """Write checkpoints atomically, with a digest; keep the one before ``last`` as ``previous``.

    A thread writes ``last``, of which it gets a copy, while the training goes on.
    """

    def __init__(self) -> None:
        self._writer = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a file. Raises CheckpointError if it, or the one before it, cannot be written; the old file remains."""
        path = Path(path)
        self.teardown()
        if path.name != "last.ckpt":
            checkpoint_file.write(checkpoint, path)
            return
        copy = tree_map(lambda value: value.detach().to("cpu", copy=True) if is_tensor(value) else value, checkpoint)
        self._written = self._writer.submit(checkpoint_file.write, copy, path, path.with_name("previous.ckpt"))

    def teardown(self) -> None:
        """Wait for the thread. Raises CheckpointError if its file cannot be written."""
        written, self._written = self._written, None
        if written is not None:
            written.result()


class LastCheckpoint(ModelCheckpoint):
    """Keep ``last.ckpt``, from which training resumes: at the end of each epoch and, within it, from time to time.

    A checkpoint is due ``every_minutes`` and ``every_steps`` (None for never). SIGTERM, SIGUSR1 and Ctrl-C write one
    after the step under way and end the program with status 75, or 130 for Ctrl-C; a second Ctrl-C ends it at once.
    """

    def __init__(
        self, folder: str | Path | None = None, every_minutes: float | None = 10.0, every_steps: int | None = None
    ) -> None:
        # At the end of each epoch, also of one without a validation.
        super().__init__(folder, filename="last", enable_version_counter=False, save_on_train_epoch_end=True)
        self.every_minutes, self.every_steps = every_minutes, every_steps
        self._signal: int | None = None
        self._within_epoch = False  # stopped, before the last batch
        self._handlers: dict[int, Any] = {}

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        super().setup(trainer, module, stage)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = SafeCheckpointIO()

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_start(trainer, module)
        self._saved_at, self._signal = time.monotonic(), None
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._take_signal) for number in STATUS}

    def _take_signal(self, number: int, frame: object) -> None:
        if number == signal.SIGINT:
            if self._signal == number:
                raise KeyboardInterrupt
            log.info("stopping after this step; press Ctrl-C again to stop at once")
        self._signal = number

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_end(trainer, module)
        # Before Lightning restores the handlers that it found: its own would keep the trainer and the model in memory.
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loop = trainer.fit_loop.epoch_loop
        # Between steps of the optimizer alone; the end of an epoch has a checkpoint of its own, after the validation.
        if loop.batch_progress.is_last_batch:
            return
        if loop._should_accumulate():
            trainer.should_stop = False  # the timer of `max_time` stops again after the next batch
            return
        step, self._within_epoch = trainer.global_step, trainer.should_stop
        if self.every_steps is not None and step % self.every_steps == 0:
            self._save(trainer)
        if trainer.world_size > 1 and step % ASK_EVERY and not trainer.should_stop:
            return
        # A validation may take long, and a training that is stopped in it continues from the checkpoint before it.
        left = trainer.num_training_batches - loop.batch_progress.current.ready
        limit = 1.0 if left <= trainer.accumulate_grad_batches else math.inf
        minutes = (time.monotonic() - self._saved_at) / 60
        late = self.every_minutes is not None and minutes >= min(self.every_minutes, limit)
        if trainer.should_stop or _any_rank(trainer, late or self._signal is not None):
            self._save(trainer)
        self._stop_if_asked(trainer)

    def on_validation_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        if trainer.world_size == 1:
            self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not self._within_epoch:  # else the rest of the epoch would be left out when the training is resumed
            super().on_train_epoch_end(trainer, module)
        self._saved_at = time.monotonic()
        self._stop_if_asked(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt")
        self._saved_at = time.monotonic()

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if _any_rank(trainer, self._signal is not None):
            raise SystemExit(STATUS.get(self._signal, 75))  # type: ignore[call-overload]  # None if another rank got it


def _any_rank(trainer: Trainer, decision: bool) -> bool:
    """Return True on every rank if ``decision`` is True on any."""
    return (trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(decision, all=False)) or decision


class BestCheckpoint(ModelCheckpoint):
    """Keep ``best.ckpt``, with the best value of ``metric``, and all its values in ``metrics.json``.

    The best value is the highest, or the lowest with ``mode`` "min".
    """

    def __init__(
        self, folder: str | Path | None = None, metric: str = "AP", mode: Literal["min", "max"] = "max"
    ) -> None:
        super().__init__(folder, filename="best", monitor=f"val/{metric}", mode=mode, enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.current_score = state_dict["current_score"]

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
