"""The time of a training step, data loading that is slower than the device, and the peak of the memory."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any

import torch
from joblib import cpu_count
from lightning.pytorch import Callback, LightningModule, Trainer

from detseg.plural import counted

log = logging.getLogger(__name__)


class DataLoadingMonitor(Callback):
    """Warn at the end of an epoch in which the device waited for data for more than ``share`` of the time.

    On a GPU it is the time that passes on the device between a step and the next one, not on the host, which is ahead.
    The first step of an epoch does not count, for which workers are started.

    Logs the means of an epoch, in seconds: ``time/data`` between two steps, and ``time/step`` of a step. On a GPU also
    ``memory/peak``, the most GiB that tensors have taken so far.
    """

    def __init__(self, share: float = 0.1) -> None:
        self.share = share
        self._waits: deque[tuple[Any, Any]] = deque()  # moments before and after, on a GPU until it has come there
        self._ended: Any = None  # the moment of the last step's end
        self._began: float | None = None  # seconds on the clock of the host
        self.waited, self.total = 0.0, 0.0  # seconds
        self.steps = 0  # of the epoch, without the first

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._start()

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._pause()

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, index: int) -> None:
        if self._ended is not None:
            self._waits.append((self._ended, self._moment(module.device)))
        if self._began is None:
            self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self._count(finished=False)
        if index == 0:  # what came before it counts neither as waiting nor as time
            self._start()
            self._began = time.perf_counter()
        else:
            self.steps += 1
        self._ended = self._moment(module.device)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._pause()
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        self._count(finished=True)
        if self.steps:
            step = (self.total - self.waited) / self.steps
            values = {"time/data": self.waited / self.steps, "time/step": step}
            if module.device.type == "cuda":
                values["memory/peak"] = torch.cuda.max_memory_allocated(module.device) / 2**30
            module.log_dict(values, rank_zero_only=True)
        if trainer.is_global_zero and self.total and self.waited > self.share * self.total:
            workers = getattr(trainer.datamodule, "num_workers", 0)  # type: ignore[attr-defined]
            cores = cpu_count()  # that this process may use
            log.warning(
                "epoch %d: the device waited for data for %.0f %% of the time. %s; `python tools/benchmark.py data` "
                "says where it goes",
                trainer.current_epoch,
                100 * self.waited / self.total,
                f"`num_workers={workers + 2}` loads with more processes than {workers}"
                if workers < cores
                else f"Loading uses {counted(workers, 'worker')} on {counted(cores, 'core')} already: smaller images "
                "or fewer transforms help",
            )

    def _start(self) -> None:
        self.waited, self.total, self.steps = 0.0, 0.0, 0
        self._ended = self._began = None
        self._waits.clear()

    def _pause(self) -> None:
        """Leave out what comes until the next step."""
        if self._began is not None:
            self.total += time.perf_counter() - self._began
        self._ended = self._began = None

    def _count(self, finished: bool) -> None:
        """Add up the waits that are over, on a GPU those that it has reached: nothing here waits for it."""
        while self._waits:
            before, after = self._waits[0]
            if isinstance(before, float):
                self.waited += after - before
            elif finished or after.query():
                self.waited += before.elapsed_time(after) / 1000
            else:
                return
            self._waits.popleft()

    @staticmethod
    def _moment(device: torch.device) -> Any:
        """Now, on the clock of a device."""
        if device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        return event
