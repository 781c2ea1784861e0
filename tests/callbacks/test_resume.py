"""A training that is stopped anywhere and resumed ends in the weights of one that was not."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from detseg import checkpoint
from detseg.callbacks import BestCheckpoint, LastCheckpoint
from detseg.callbacks.checkpoints import STATUS
from detseg.data import RandomHorizontalFlip, Resize
from detseg.errors import CheckpointError
from detseg.models import FasterRCNN
from detseg.modules import FPN, RPN, RoIAlign, RoIHeads, TwoMLPHead
from detseg.modules.backbones import MobileNetV2
from detseg.tasks import DetectionTask
from tests.colours import colours, write_colours

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "max_epochs": 2,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class Killed(BaseException):
    """Ends a training as a signal would, without a last word."""


class Kill(Callback):
    """Stop at a moment: a hook of Lightning's and the number of its call."""

    def __init__(self, hook: str, call: int) -> None:
        self.left = call
        setattr(self, hook, self._count)

    def _count(self, *args: Any, **kwargs: Any) -> None:
        self.left -= 1
        if not self.left:
            raise Killed


def train(
    root: Path, run: Path, accumulate: int, *callbacks: Callback, every_steps: int | None = 1, **settings: Any
) -> dict[str, Tensor]:
    """Train a detector for two epochs of three batches, from the last checkpoint of the run if there is one."""
    lightning.seed_everything(3, verbose=False)
    heads = RoIHeads(RoIAlign(), TwoMLPHead(16))
    model = FasterRCNN(FPN(MobileNetV2(), channels=8), 3, RPN(post_nms_top_n=(50, 50)), heads)
    task = DetectionTask(model, lr=0.001)
    data = colours(root, batch_size=2, transforms=[RandomHorizontalFlip(), Resize(64, 64)])
    checkpoints = BestCheckpoint(run, task.monitor_metrics[0]), LastCheckpoint(run, every_steps=every_steps)
    trainer = Trainer(**QUIET, accumulate_grad_batches=accumulate, callbacks=[*checkpoints, *callbacks], **settings)
    last = run / "last.ckpt"
    trainer.fit(task, data, ckpt_path=last if last.exists() else None, weights_only=True)
    return task.state_dict()


MOMENTS = [
    ("on_train_batch_start", 2, 1),
    ("on_validation_batch_end", 1, 1),
    ("on_train_epoch_end", 1, 1),
    ("on_train_batch_start", 4, 2),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("colours"), train=6, val=1, side=64)


@pytest.fixture(scope="module")
def unbroken(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Tensor]]:
    """The weights of trainings that accumulate the gradients of one batch and of two."""
    return {count: train(root, tmp_path_factory.mktemp("whole"), count) for count in (1, 2)}


@pytest.mark.parametrize(("hook", "call", "accumulate"), MOMENTS)
def test_the_weights_are_those_of_an_unbroken_training(
    root: Path, unbroken: dict[int, dict[str, Tensor]], tmp_path: Path, hook: str, call: int, accumulate: int
) -> None:
    with pytest.raises(Killed):
        train(root, tmp_path, accumulate, Kill(hook, call))
    resumed = train(root, tmp_path, accumulate)
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken[accumulate].items())


def test_a_training_that_max_time_stops_continues_within_its_epoch(
    root: Path, unbroken: dict[int, dict[str, Tensor]], tmp_path: Path
) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:  # as Lightning's Timer
            trainer.should_stop = trainer.global_step == 2

    train(root, tmp_path, 1, Stop(), every_steps=None)
    assert checkpoint.read(tmp_path / "last.ckpt")["global_step"] == 2
    resumed = train(root, tmp_path, 1)
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken[1].items())


def test_a_signal_writes_a_checkpoint_and_ends_the_program(root: Path, tmp_path: Path) -> None:
    class Send(Callback):
        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            if trainer.global_step == 1:
                os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(SystemExit) as ended:
        train(root, tmp_path, 1, Send(), every_steps=None)
    assert ended.value.code == 75
    assert checkpoint.read(tmp_path / "last.ckpt")["global_step"] == 2
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_a_training_leaves_the_handlers_of_signals_as_they_were(root: Path, tmp_path: Path) -> None:
    """One of Lightning's would ignore SIGTERM, and keep the trainer with the model in memory."""
    before = [signal.getsignal(number) for number in STATUS]
    train(root, tmp_path, 1, limit_train_batches=1)
    assert [signal.getsignal(number) for number in STATUS] == before


def test_other_data_are_refused(root: Path, tmp_path: Path) -> None:
    train(root, tmp_path, 1, limit_train_batches=1)
    other = write_colours(tmp_path / "other", train=5, val=1, side=64)
    with pytest.raises(CheckpointError, match=r"digest of the training data is \w+, was"):
        train(other, tmp_path, 1)
    with pytest.raises(CheckpointError, match="accumulate_grad_batches is 2, was 1"):
        train(root, tmp_path, 2)
