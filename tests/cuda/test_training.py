"""Trainings on a GPU: the same weights as on the CPU, checkpoints that move, loaders, checks of the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor
from torch.testing import assert_close

from detseg import checkpoint
from detseg.callbacks import DataLoadingMonitor
from detseg.inference import Predictor
from detseg.modules import FPN, TwoMLPHead
from detseg.modules.backbones import ResNet
from detseg.structures import Batch
from detseg.tasks import DetectionTask
from detseg.tasks.loss_check import LossCheck
from detseg.tasks.optimization import ScheduleConfig
from tests.colours import COLOURS, colours, write_colours
from tests.cuda.devices import DEVICES
from tests.models.detectors import faster_rcnn

each_device = pytest.mark.parametrize("device", DEVICES)
EVERY = 10**6  # samples, so that none is drawn at random


def new_task(**settings: Any) -> DetectionTask:
    seed_everything(0, verbose=False)
    model = faster_rcnn(
        FPN(ResNet("resnet18", stages=[2, 3]), channels=16),
        len(COLOURS),
        TwoMLPHead(16),
        rpn_batch_size_per_image=EVERY,
        rpn_positive_fraction=1.0,
        batch_size_per_image=EVERY,
        positive_fraction=1.0,
    )
    model.train = lambda mode=True: model  # type: ignore[method-assign] # batch norm stays in evaluation mode
    return DetectionTask(model.eval(), lr=0.02, schedule=ScheduleConfig(warmup_steps=0), **settings)


def fit(task: DetectionTask, root: Path, device: str, resume: Path | None = None, **settings: Any) -> Trainer:
    """Train for two epochs in double precision, in which devices differ by little."""
    settings = {"max_epochs": 2, "limit_val_batches": 0, "logger": False, "precision": "64-true", **settings}
    trainer = Trainer(
        accelerator=device,
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=root,
        **settings,
    )
    trainer.fit(task, colours(root, batch_size=2), ckpt_path=resume)
    return trainer


def weights(task: DetectionTask) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in task.model.state_dict().items()}


@each_device
def test_weights_equal_those_of_a_training_on_the_cpu(device: str, tmp_path: Path) -> None:
    root = write_colours(tmp_path)
    before = weights(new_task())
    found = []
    for place in ("cpu", device):
        task = new_task()
        fit(task, root, place)
        found.append(weights(task))
    assert not torch.equal(found[0]["rpn.head.cls_logits.weight"], before["rpn.head.cls_logits.weight"])
    assert_close(found[1], found[0], rtol=1e-5, atol=1e-7)


@pytest.mark.cuda
def test_weights_of_a_compiled_training_are_the_same(tmp_path: Path) -> None:
    root = write_colours(tmp_path)
    found = []
    for compile_loss in (False, True):
        task = new_task(compile_loss=compile_loss)
        fit(task, root, "cuda")
        found.append(weights(task))
    assert_close(found[1], found[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("cpu", "bf16-mixed"),
        pytest.param("cuda", "bf16-mixed", marks=pytest.mark.cuda),
        pytest.param("cuda", "16-mixed", marks=pytest.mark.cuda),
        pytest.param("cuda", "32-true", marks=pytest.mark.cuda),
    ],
)
def test_mixed_precision_trains(device: str, precision: str, tmp_path: Path) -> None:
    task = new_task()
    before = weights(task)
    fit(task, write_colours(tmp_path), device, precision=precision, limit_val_batches=1)
    after = weights(task)
    assert all(value.isfinite().all() and value.dtype == before[name].dtype for name, value in after.items())
    assert not torch.equal(after["rpn.head.cls_logits.weight"], before["rpn.head.cls_logits.weight"])
    assert np.isfinite(task.metric_values["AP"])


@pytest.mark.parametrize("there", DEVICES)
@each_device
def test_a_training_resumes_on_this_and_on_another_device(device: str, there: str, tmp_path: Path) -> None:
    root = write_colours(tmp_path)
    whole = new_task()
    fit(whole, root, device)
    trainer = fit(new_task(), root, device, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = new_task()
    fit(resumed, root, there, tmp_path / "half.ckpt")
    assert_close(weights(resumed), weights(whole), rtol=1e-5, atol=1e-7)


@each_device
def test_a_checkpoint_is_read_on_a_machine_without_that_device_and_moved_back(device: str, tmp_path: Path) -> None:
    root = write_colours(tmp_path)
    task = new_task()
    fit(task, root, device, precision="32-true").save_checkpoint(tmp_path / "end.ckpt")
    loaded = checkpoint.load(tmp_path / "end.ckpt")
    assert {value.device.type for value in loaded.model.state_dict().values()} == {"cpu"}
    assert_close(weights(loaded), weights(task), rtol=0, atol=0)
    checkpoint.save(loaded.to(device), tmp_path / "again.ckpt")
    assert_close(weights(checkpoint.load(tmp_path / "again.ckpt")), weights(task), rtol=0, atol=0)


@each_device
def test_predictions_of_images_equal_those_of_the_cpu(device: str, tmp_path: Path) -> None:
    task = new_task()
    fit(task, write_colours(tmp_path), "cpu")
    task.model.roi_heads.postprocessor.score_threshold = 0.0
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (expected,) = Predictor(task.model.to("cpu"))([image], threshold=0)
    (result,) = Predictor(task.model.to(device))([image], threshold=0)
    assert len(result.scores) == len(expected.scores) > 0
    assert_close(np.sort(result.scores), np.sort(expected.scores), rtol=1e-5, atol=1e-7)


@each_device
@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_are_pinned_if_there_is_a_gpu(device: str, num_workers: int, tmp_path: Path) -> None:
    data = colours(write_colours(tmp_path), batch_size=2, num_workers=num_workers)
    batch: Batch = next(iter(data.train_dataloader()))
    assert batch.proposals is None
    for value in (batch.images, batch.image_sizes, batch.targets.boxes, batch.targets.valid):
        assert value.is_pinned() == torch.cuda.is_available()
        assert value.to(device, non_blocking=True).device.type == device


@each_device
@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_is_not_finite_changes_nothing(device: str, fused: bool) -> None:
    parameters = []
    for factors in ((1.0, torch.nan, 2.0, torch.nan, 3.0), (1.0, 2.0, 3.0)):
        parameters.append(torch.nn.Parameter(torch.ones(3, device=device)))
        optimizer = torch.optim.SGD(parameters[-1:], lr=0.1, momentum=0.9, weight_decay=0.1, fused=fused)
        for factor in factors:
            optimizer.zero_grad()
            total = (parameters[-1] * factor).sum()
            total.backward()
            check = LossCheck(7, {}, Batch(*[torch.zeros(1)] * 5), total)
            check.leave_out(optimizer)
            optimizer.step()
            assert check.is_finite() == (factor == factor)
    assert_close(*parameters, rtol=0, atol=0)


@pytest.mark.cuda
def test_validation_does_not_change_what_training_draws_on_the_gpu(tmp_path: Path) -> None:
    root = write_colours(tmp_path)
    states = []
    for batches in (0, 1):
        task = new_task()
        fit(task, root, "cuda", limit_val_batches=batches, num_sanity_val_steps=0)
        states.append(torch.rand(3, device="cuda").tolist())
    assert states[0] == states[1]


@each_device
def test_waits_for_data_are_measured(device: str, tmp_path: Path) -> None:
    monitor = DataLoadingMonitor()
    task = new_task()
    fit(task, write_colours(tmp_path), device, callbacks=[monitor], max_epochs=1)
    assert ("memory/peak" in task.trainer.logged_metrics) == (device == "cuda")
    assert 0 <= monitor.waited <= monitor.total
    assert monitor.total > 0
