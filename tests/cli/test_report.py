"""Reports from tasks and their data: after a validation, beside a checkpoint, and of two runs."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Trainer

from detseg import checkpoint, cli
from detseg.callbacks import OutputRecorder
from detseg.cli._options import with_options
from detseg.cli._report import _stride_limit, check_thresholds, save_thresholds, summarize, write_report
from detseg.errors import ConfigError
from detseg.inference.predictor import Predictor
from detseg.models import Segmenter
from detseg.tasks import DetectionTask
from tests.cli.conftest import BEST, Refused
from tests.colours import ColourDetector, ColourMaskDetector, colours, write_colours
from tests.training import QUIET


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((6, 1, 10, 1.0), "validates after 6 epochs, and only 1 epoch ran; set `--trainer.check_val_every_n_epoch 1`"),
        ((1, 1, 10, 0), "validation is off; set `--trainer.limit_val_batches 1.0`"),
        (
            (1, 1, 10, 1.0),
            "stopped at step 10, before the first validation; train longer, or set `--trainer.val_check_",
        ),
    ],
)
def test_training_without_a_validation_gives_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, settings: tuple[float, ...], message: str
) -> None:
    names = ("check_val_every_n_epoch", "current_epoch", "global_step", "limit_val_batches")
    trainer: Any = SimpleNamespace(**dict(zip(names, settings, strict=True)))
    with caplog.at_level(logging.INFO, "detseg"):
        summarize(DetectionTask(ColourDetector()), trainer, tmp_path)
    assert message in with_options(caplog.text, "train")


def test_a_training_leaves_a_report(tiny_run: Path) -> None:
    run = tiny_run / "runs" / "tiny"
    report = json.loads((run / "report.json").read_text())
    assert report["about"]["model"] == "FasterRCNN, MobileNetV2"
    assert len(report["about"]["sha256 of the checkpoint"]) == 64
    assert len(report["training"]["loss"]["val/loss"][0]) == 2
    assert report["causes"][0]["name"] == "validation-small"
    assert (run / "report.html").stat().st_size < 1e6


def test_an_evaluation_adds_proposals_and_slices(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny_run)
    Path("days.csv").write_text("image,day\nval0,monday\nval1,monday\nval2,tuesday\n")
    cli.main(["evaluate", "--checkpoint", BEST, "--report", "new/page.html", "--slices", "days.csv"])
    report = json.loads(Path("new/page.json").read_text())
    metrics = json.loads(Path("runs/tiny/metrics.json").read_text())
    figures = {one["name"]: one["value"] for one in report["verdict"]["figures"]}
    assert figures["AP50"] == pytest.approx(metrics["AP50"], rel=1e-5)
    recalls = report["stages"]["proposal recall"]["all"]
    assert len(recalls) == 5
    assert recalls[0][0] <= recalls[-1][0] <= 1
    assert {one["name"] for one in report["slices"]["day"]} == {"monday", "tuesday"}
    assert "written: new/page.html" in capsys.readouterr().out
    Path("other.csv").write_text("image,day\nnothing,monday\n")
    line = ["--checkpoint", BEST, "--report", "new/page.html", "--slices", "other.csv"]
    assert "error: other.csv: its first column, image, has none of the evaluated images" in refused("evaluate", *line)
    assert "runs/tiny/pictures: has no report.json" in refused("report", "runs/tiny", "runs/tiny/pictures")
    assert "absent.json: no such file; `detseg evaluate --report absent.html`" in refused(
        "report", "runs/tiny", "absent.html"
    )
    line = ["--checkpoint", BEST, "--report", "new/report.html", "--out", "new/report.json"]
    assert "--report new/report.html: its values would overwrite --out" in refused("evaluate", *line)
    assert "--report report.json: must end in .html" in refused("evaluate", *line[:2], "--report", "report.json")
    line = ["runs/tiny", "new/page.json", "--out", "new/page.html"]
    assert "--out new/page.html: its values would overwrite new/page.json" in refused("report", *line)


def test_thresholds_of_a_checkpoint_are_used_by_predictions(tmp_path: Path) -> None:
    data = colours(write_colours(tmp_path / "data"), masks="all")
    task = DetectionTask(ColourMaskDetector())
    recorder = OutputRecorder()
    Trainer(**QUIET, callbacks=[recorder]).validate(task, data, verbose=False)
    path = tmp_path / "colours.ckpt"
    checkpoint.save(task, path)
    save_thresholds(task, path, "best-f1", 1.0)
    model = checkpoint.load(path).model
    scores = task.detections.scores  # type: ignore[union-attr]
    labels = task.detections.labels  # type: ignore[union-attr]
    assert model.thresholds == pytest.approx([scores[labels == label].min() for label in range(3)])
    image = tmp_path / "data" / "val" / "val2.png"
    model.thresholds = (1.0, 0.0, 1.0)
    assert Predictor(model)(image)[0].labels.tolist() == [1]
    assert len(Predictor(model)(image, threshold=0.0)[0].scores) == 3
    report = write_report(task, tmp_path / "report.html", path, recorder)
    assert report is not None
    assert {one["name"] for one in report["verdict"]["figures"]} >= {"AP", "mask AP"}
    with pytest.raises(ConfigError, match="is a published model"):
        check_thresholds(task, tmp_path, "best-f1")


def test_without_detections_there_is_a_report_and_no_threshold(tmp_path: Path) -> None:
    task = DetectionTask(ColourDetector(blunder=-30.0))
    Trainer(**QUIET).validate(task, colours(write_colours(tmp_path / "data")), verbose=False)
    checkpoint.save(task, tmp_path / "colours.ckpt")
    assert write_report(task, tmp_path / "report.html") is not None
    with pytest.raises(ConfigError, match="no detection is right"):
        save_thresholds(task, tmp_path / "colours.ckpt", "best-f1", 1.0)


def test_the_stride_limit_is_that_of_evaluated_images(monkeypatch: pytest.MonkeyPatch) -> None:
    thin, thick = np.zeros((2, 32, 32), np.uint8)
    thin[:, 13:15], thick[:, 8:24] = 1, 1
    annotations: Any = SimpleNamespace(classes=("ground", "pole"), labels=lambda image: {3: thin, 5: thick}[image])
    model = Segmenter(2)
    assert _stride_limit(annotations, model, [3]) is None  # a segmenter without a stride
    model.stride = 8
    monkeypatch.setattr("detseg.cli._report.LIMIT_PIXELS", 2 * 32 * 32)
    limits = [_stride_limit(annotations, model, images) for images in ([3], [5], [5, 3, 5])]
    assert [limit.iou[1] for limit in limits if limit] == [0, 1, 1]  # of three images, every second one
