"""Metrics of a task: those of torchmetrics, and one from outside the package."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.detection import MeanAveragePrecision

from detseg import checkpoint, cli
from detseg.callbacks import BestCheckpoint
from detseg.errors import CheckpointError, ConfigError
from detseg.metrics import CocoAP, SemanticIoU, VocAP
from detseg.structures import IGNORE_INDEX
from detseg.tasks import DetectionTask, ScheduleConfig, SegmentationTask
from tests.colours import ColourDetector, ColourMaskDetector, colours, write_colours
from tests.tasks.test_segmentation import Brightest, data
from tests.tasks.test_segmentation import write_colours as write_semantic_colours
from tests.training import QUIET

MODULE = '''
import torch
from torchmetrics import Metric


class CountError(Metric):
    """The mean difference between the numbers of detections and of objects in an image."""

    def __init__(self, threshold: float = 0.0) -> None:
        super().__init__()
        self.threshold = threshold
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds, target) -> None:
        for detections, objects in zip(preds, target, strict=True):
            self.total += abs(int((detections["scores"] >= self.threshold).sum()) - len(objects["boxes"]))
            self.images += 1

    def compute(self) -> torch.Tensor:
        return self.total / self.images
'''
CONFIG = """
model:
  class_path: tests.colours.ColourDetector
task:
  metrics:
  - CocoAP
  - class_path: my_package.CountError
    init_args: {threshold: 2.0}
data:
  class_path: COCO
  init_args: {root: colours, num_workers: 0}
trainer:
  max_epochs: 1
  accelerator: cpu
"""


class Share(Metric):
    """A value that is higher in later validations."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: object, target: list[object]) -> None:
        self.images += len(target)

    def compute(self) -> Tensor:
        return self.images / 10


class Rising(Metric):
    """The number of validations so far."""

    higher_is_better = True
    validations = 0

    def update(self, preds: object, target: object) -> None: ...

    def compute(self) -> Tensor:
        self.validations += 1
        return torch.tensor(float(self.validations))


class RisingError(Rising):
    """The same of a metric that should fall."""

    higher_is_better = False


class RisingValue(Rising):
    """The same of a metric that does not tell its better direction."""

    higher_is_better = None


@pytest.mark.parametrize("masks", [False, True])
def test_metrics_of_torchmetrics_are_computed_beside_ours(tmp_path: Path, masks: bool) -> None:
    theirs = MeanAveragePrecision(iou_type="segm" if masks else "bbox", class_metrics=False)
    theirs.warn_on_many_detections = False
    model = ColourMaskDetector(blunder=2.0) if masks else ColourDetector(blunder=2.0)
    task = DetectionTask(model, metrics=[CocoAP(), theirs])
    loader = colours(write_colours(tmp_path), masks="all" if masks else "none")
    Trainer(**QUIET).validate(task, loader, verbose=False)
    values = task.metric_values
    assert 0 < values["AP"] < 1
    assert values["map"] == pytest.approx(values["mask_AP" if masks else "AP"], abs=1e-6)
    assert f"map {values['map']:.4f}" in task.format_table(values)
    assert "VOC07" not in task.format_table(values)


def test_pixels_by_torchmetrics(tmp_path: Path) -> None:
    theirs = MulticlassJaccardIndex(3, ignore_index=IGNORE_INDEX)
    task = SegmentationTask(Brightest(bias=0.5), metrics=[SemanticIoU(), theirs])
    Trainer(**QUIET).validate(task, data(write_semantic_colours(tmp_path)), verbose=False)
    assert 0 < task.metric_values["mean_IoU"] < 1
    assert task.metric_values["MulticlassJaccardIndex"] == pytest.approx(task.metric_values["mean_IoU"], abs=1e-6)


def test_the_first_metric_is_monitored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = DetectionTask(ColourDetector(), metrics=[Share(), CocoAP()])
    caplog.set_level("INFO")
    Trainer(**QUIET, max_epochs=1).fit(task, colours(write_colours(tmp_path)))
    assert task.monitor_metrics == ("Share",)
    assert "epoch 0: Share 0.300, validation loss" in caplog.text
    unnamed = DetectionTask(ColourDetector(), metrics=[MeanAveragePrecision()])
    with pytest.raises(ConfigError, match="MeanAveragePrecision, the first, computes no MeanAveragePrecision; give it"):
        Trainer(**QUIET, max_epochs=1).fit(unnamed, colours(tmp_path))
    assert unnamed.global_step == 0  # it stops in the sanity check, before the first epoch
    with pytest.raises(ConfigError, match="metrics: is empty"):
        DetectionTask(ColourDetector(), metrics=[])


@pytest.mark.parametrize(("metric", "epoch"), [(RisingError, 0), (Rising, 2), (RisingValue, 2)])
def test_the_best_value_is_that_of_the_metric(tmp_path: Path, metric: type[Metric], epoch: int) -> None:
    """The best checkpoint and the plateau follow ``higher_is_better``."""
    task = DetectionTask(ColourDetector(), metrics=[metric()], schedule=ScheduleConfig("plateau"))
    best = BestCheckpoint(tmp_path / "run", task.monitor_metrics[0], task.monitor_mode)
    settings = QUIET | {"enable_checkpointing": True, "num_sanity_val_steps": 0, "max_epochs": 3}
    trainer = Trainer(**settings, callbacks=[best])
    trainer.fit(task, colours(write_colours(tmp_path / "colours")))
    assert torch.load(best.best_model_path, weights_only=False)["epoch"] == epoch
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())[metric.__name__] == epoch + 1
    plateau: Any = trainer.lr_scheduler_configs[1].scheduler
    assert plateau.best == epoch + 1


def test_a_checkpoint_keeps_the_metrics_and_their_arguments(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = DetectionTask(ColourDetector(), metrics=[VocAP(2010), Share()])
    task.model.class_names = ("red", "green", "blue")
    checkpoint.save(task, tmp_path / "a.ckpt")
    caplog.set_level("INFO")
    (metric,) = checkpoint.load(tmp_path / "a.ckpt").metrics
    assert isinstance(metric, VocAP)
    assert metric.year == 2010
    assert "metric left out: tests.tasks.test_metrics.Share: its class does not inherit" in caplog.text
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    content["detseg"]["metric_configs"] = [{"class": "absent_module.Metric", "init_args": {}}]
    torch.save(content, tmp_path / "b.ckpt")
    assert [type(one) for one in checkpoint.load(tmp_path / "b.ckpt").metrics] == [CocoAP, VocAP, VocAP]  # the defaults
    assert "metric left out: absent_module.Metric: not a class of detseg; import the module" in caplog.text
    content["detseg"]["metric_configs"] = [{"class": "Resize", "init_args": {}}]
    torch.save(content, tmp_path / "c.ckpt")
    with pytest.raises(CheckpointError, match="cannot rebuild the model"):
        checkpoint.load(tmp_path / "c.ckpt")


def test_a_metric_from_outside_is_named_in_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_colours(tmp_path / "colours")
    (tmp_path / "my_package.py").write_text(MODULE)
    (tmp_path / "my.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    cli.main(["train", "--config", "my.yaml", "--name", "mine"])
    values = json.loads(Path("runs/mine/metrics.json").read_text())
    assert values["CountError"] == 2  # no score reaches 2, so that all of 1, 2 and 3 objects are missed
    assert values["AP"] > 0
    assert "VOC07_AP" not in values
    assert "CountError 2.0000" in capsys.readouterr().out
    cli.main(["evaluate", "--checkpoint", "runs/mine/best.ckpt", "--evaluator", "pycocotools"])
    shown = capsys.readouterr().out
    assert "detseg pycocotools" in shown
    assert "VOC07" not in shown  # the metrics of the training again
    difference = re.search(r"largest difference, classes included: (\S+)", shown)
    assert difference is not None
    assert float(difference[1]) < 1e-12
