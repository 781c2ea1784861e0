from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from detseg.callbacks import DataLoadingMonitor
from detseg.callbacks import data_loading as module


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def run(
    clock: Clock,
    steps: list[tuple[float, float]],
    validation: float = 0,
    workers: int = 0,
    rank: int = 0,
    log: Callable[..., None] = lambda values, rank_zero_only: None,
) -> DataLoadingMonitor:
    """An epoch of steps, each with seconds of waiting and of work; a validation after the third."""
    callback = DataLoadingMonitor()
    trainer: Any = SimpleNamespace(
        is_global_zero=rank == 0, current_epoch=4, datamodule=SimpleNamespace(num_workers=workers)
    )
    model: Any = SimpleNamespace(device=torch.device("cpu"), log_dict=log)
    callback.on_train_epoch_start(trainer, model)
    for index, (wait, work) in enumerate(steps):
        clock.now += wait
        callback.on_train_batch_start(trainer, model, None, index)
        clock.now += work
        callback.on_train_batch_end(trainer, model, None, None, index)
        if index == 2 and validation:
            callback.on_validation_start(trainer, model)
            clock.now += validation
    callback.on_train_epoch_end(trainer, model)
    return callback


def test_the_share_is_that_of_the_time_after_the_first_step(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    found = run(clock, [(100, 50), (1, 3), (2, 4), (0, 5)])
    assert (found.waited, found.total) == (3, 15)
    assert "epoch 4: the device waited for data for 20 % of the time. `num_workers=2` loads" in caplog.text
    assert "python tools/benchmark.py data" in caplog.text


def test_means_of_an_epoch_are_logged(clock: Clock) -> None:
    logged: list[dict[str, float]] = []
    run(clock, [(100, 50), (1, 3), (2, 4), (0, 5)], log=lambda values, rank_zero_only: logged.append(values))
    assert logged == [{"time/data": 1, "time/step": 4}]


def test_a_validation_is_no_waiting(clock: Clock) -> None:
    found = run(clock, [(9, 5), (1, 3), (1, 3), (1, 7), (2, 3)], validation=1000)
    assert (found.waited, found.total) == (4, 8 + 7 + 5)


@pytest.mark.parametrize("steps", [[], [(50, 1)], [(9, 1), (0.1, 1), (0.1, 1)]])
def test_nothing_is_said_of_little(
    clock: Clock, caplog: pytest.LogCaptureFixture, steps: list[tuple[float, float]]
) -> None:
    run(clock, steps)
    assert not caplog.records


def test_one_rank_says_it_and_more_workers_than_cores_are_not_advised(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    run(clock, [(0, 1), (1, 1)], rank=1)
    assert not caplog.records
    run(clock, [(0, 1), (1, 1)], workers=10_000)
    assert "Loading uses 10,000 workers on" in caplog.text
    assert "--data.num_workers" not in caplog.text


def test_cores_that_this_process_may_not_use_do_not_count(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    run(clock, [(0, 1), (1, 1)], workers=2)
    assert "Loading uses 2 workers on 2 cores already: smaller images" in caplog.text


def test_a_trainer_calls_it(caplog: pytest.LogCaptureFixture) -> None:
    from lightning.pytorch import LightningModule, Trainer

    class Slow(torch.utils.data.IterableDataset[torch.Tensor]):
        def __iter__(self) -> Iterator[torch.Tensor]:
            for _ in range(4):
                time.sleep(0.05)
                yield torch.zeros(1)

    class Network(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            return self.layer(batch).sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    callback = DataLoadingMonitor(share=0)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback],
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, "detseg"):
        trainer.fit(Network(), torch.utils.data.DataLoader(Slow(), batch_size=None))
    assert 0 < callback.waited <= callback.total
    assert "waited for data" in caplog.text
