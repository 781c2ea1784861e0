"""A checkpoint that version 0.1.0 wrote: it is loaded, evaluated, and its training is resumed.

``faster_rcnn_0.1.0.ckpt`` comes from a training of 50 epochs on what ``write_colours`` writes, with AdamW and a cosine;
the state of its callbacks, which names folders, is removed. The numbers below are of version 0.1.0.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from detseg import checkpoint, compat
from detseg.configurable import from_config
from detseg.tasks import DetectionTask, OptimizerConfig, ScheduleConfig
from tests.colours import write_colours
from tests.training import QUIET

OLD = Path(__file__).with_name("faster_rcnn_0.1.0.ckpt")
RESUMED = {
    "loss_objectness": 0.02637384831905365,
    "loss_rpn_box_reg": 0.006167963147163391,
    "loss_classifier": 0.4479788939158122,
    "loss_box_reg": 0.4853540261586507,
}  # losses after five more epochs


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_colours(Path("colours"))
    compat.note.cache_clear()
    for part in ("rpn", "roi_heads"):  # which drew from the global generator
        name = f"detseg.modules.{part}.uniform"
        monkeypatch.setattr(name, lambda seeds, index, _: torch.rand(len(seeds), len(index)))


def test_it_is_evaluated(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        task = checkpoint.load(OLD)
    assert "a checkpoint of detseg 0.1.0" in caplog.text
    assert "TwoFCHead is called TwoMLPHead" in caplog.text
    expected = {name: value for name, value in task.metric_values.items() if name != "images_per_second"}
    assert expected["AP"] == pytest.approx(0.132, abs=1e-3)
    Trainer(**QUIET).validate(task, from_config(task.data_recipe), verbose=False)
    assert {name: task.metric_values[name] for name in expected} == pytest.approx(expected, rel=1e-4, nan_ok=True)


def test_its_training_is_resumed(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    # In version 0.1.0 the numbers that a step drew depended on all steps before it.
    monkeypatch.setattr("detseg.tasks.base.seed_step", lambda *position: None)
    old = checkpoint.load(OLD)
    model = from_config(checkpoint.read(OLD)["detseg"]["model"])
    task = DetectionTask(
        model, lr=0.5, optimizer=OptimizerConfig("adamw"), schedule=ScheduleConfig("cosine", warmup_steps=3)
    )
    task.config = {"task": {"lr": 0.5, "optimizer": {"name": "adamw"}}}
    trainer = Trainer(**QUIET, max_epochs=55, check_val_every_n_epoch=55)
    seed_everything(0, verbose=False)
    trainer.fit(task, from_config(old.data_recipe), ckpt_path=OLD)
    assert "lr: 0.5 is not used: a resumed training keeps its own value, 0.06" in caplog.text
    losses = {name: value for name, value in task.losses.items() if name != "loss"}
    assert losses == pytest.approx(RESUMED, rel=1e-3)
    assert math.isclose(task.losses["loss"], sum(RESUMED.values()), rel_tol=1e-3)
