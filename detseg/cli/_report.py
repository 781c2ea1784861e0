"""The metrics and the report of a task after its last validation."""

from __future__ import annotations

import hashlib
import logging
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray

import detseg
from detseg import checkpoint
from detseg.callbacks import OutputRecorder
from detseg.check.statistics import best_anchor_ious
from detseg.data import DetectionDataModule
from detseg.data.annotations.semantic import SemanticAnnotations
from detseg.errors import ConfigError, DataError
from detseg.metrics.detections import GroundTruth
from detseg.metrics.stages import TOP
from detseg.metrics.stride_limit import StrideLimit, stride_limit
from detseg.models import Segmenter
from detseg.modules.backbones.backbone import Backbone
from detseg.plural import counted
from detseg.preprocessing import ResizeConfig
from detseg.report.classification import write_classification_report
from detseg.report.evaluation import DetectionRun
from detseg.report.page import write_detection_report
from detseg.report.sections import MISS_COST
from detseg.report.semantic import write_semantic_report
from detseg.report.training import read_history
from detseg.tasks import DetectionTask, SegmentationTask, Task
from detseg.weights import checkpoint_file

log = logging.getLogger(__name__)

LIMIT_PIXELS = 30_000_000  # labels that are measured at the stride of a segmenter, in seconds


def summarize(task: Task, trainer: Trainer, folder: Path) -> None:
    """Print the metrics of the best checkpoint of a training, and the files of the run."""
    best = folder / "best.ckpt"
    if not best.exists():
        log.info("no metrics: %s; results are in %s", _why_not_validated(task, trainer), folder)
        return
    print(task.format_table(checkpoint.read(best)["detseg"]["metrics"]))
    print(f"\nbest checkpoint  {best}\nmetrics          {best.with_name('metrics.json')}")
    if (folder / "pictures").exists():
        print(f"pictures         {folder / 'pictures'}")


def _why_not_validated(task: Task, trainer: Trainer) -> str:
    """Return the setting that kept a training from a validation or its best checkpoint, and the way on."""
    every, epochs = trainer.check_val_every_n_epoch or 0, trainer.current_epoch
    if task.metric_values:
        return "no checkpoint was saved; leave `enable_checkpointing=true`"
    if not trainer.limit_val_batches:
        return "validation is off; set `limit_val_batches=1.0`"
    if every > epochs > 0:
        ran = counted(epochs, "epoch")
        return f"it validates after {every} epochs, and only {ran} ran; set `check_val_every_n_epoch=1`"
    steps = trainer.global_step
    hint = f"train longer, or set `val_check_interval={max(1, steps)}`"
    return f"training stopped at step {steps}, before the first validation; {hint}"


def write_report(
    task: Task,
    path: Path,
    origin: Path | None = None,
    recorder: OutputRecorder | None = None,
    trained_here: bool = True,
    attributes: Mapping[str, Sequence[str]] | None = None,
    miss_cost: float = MISS_COST,
) -> dict[str, Any] | None:
    """Write the report of the last validation to ``path``; return its values, None if no metric keeps what it needs.

    The checkpoint ``origin`` lies in the folder of its training; with ``trained_here`` the data of the task are those
    that it was trained on. ``attributes`` are columns of the images of ``data.val_annotations``.
    """
    data = task.data
    about = _about(task, data, origin)
    records = recorder.records if recorder else {}
    history = read_history(origin.parent) if origin else []
    if not isinstance(task, DetectionTask):
        if not records:
            return None
        if (count := len(records)) < (images := len(data.val_annotations)):
            log.warning("the report covers %d of %d images, those of one process", count, images)
        if isinstance(task, SegmentationTask):
            limit = _stride_limit(data.val_annotations, task.model, [*records])
            return write_semantic_report(data.val_annotations, records, task.metric_values, about, history, path, limit)
        return write_classification_report(data.val_annotations, records, about, history, path)
    metric = task.detection_metric
    if metric is None or metric.ground_truth is None or metric.detections is None:
        log.warning("no report: no metric keeps the detections; add CocoAP to `metrics`")
        return None
    truth, annotations, backbone = metric.ground_truth, data.val_annotations, getattr(task.model, "backbone", None)
    run = DetectionRun(
        annotations,
        truth,
        metric.detections,
        metric.computed_classes,
        task.metric_values,
        about,
        train=_train_annotations(data) if trained_here else None,
        proposals=_proposals(truth, records),
        anchor_ious=_anchor_ious(task, annotations, truth),
        normalization=_normalization(backbone) if isinstance(backbone, Backbone) else None,
        history=history,
        settings=task.config,
        attributes={
            name: [column[row] for row in _rows(truth).tolist()] for name, column in (attributes or {}).items()
        },
    )
    return write_detection_report(run, path, miss_cost)


def _normalization(backbone: Backbone) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean, std = (one.flatten().double().cpu().numpy() for one in (backbone.mean, backbone.std))
    return mean, std


def _rows(truth: GroundTruth) -> NDArray[Any]:
    return np.arange(len(truth.sizes)) if truth.image_index is None else truth.image_index


def _train_annotations(data: DetectionDataModule) -> Any:
    try:
        return data.train_annotations
    except DataError:
        return None


def _proposals(truth: GroundTruth, records: dict[int, Any]) -> NDArray[np.float64] | None:
    """The recorded overlaps (N, 5) in the order of the objects; None if an image has none."""
    rows = _rows(truth).tolist()
    if not rows or not all(row in records for row in rows):
        return None
    overlaps = np.concatenate([np.zeros((0, len(TOP))), *(records[row] for row in rows)])
    return overlaps if len(overlaps) == len(truth.labels) else None


def _anchor_ious(task: DetectionTask, annotations: Any, truth: GroundTruth) -> NDArray[np.float64] | None:
    """The best IoU (N,) of each object with an anchor of the model; None for a model without anchors."""
    model, resized = task.model, task.model.preprocessing
    generator = getattr(getattr(model, "rpn", model), "anchor_generator", None)
    if generator is None or not isinstance(resized, ResizeConfig):
        return None
    levels = [
        (stride, anchors.double().cpu().numpy())
        for stride, anchors in zip(model.backbone.strides, generator.base_anchors, strict=True)
    ]
    sizes = annotations.sizes[_rows(truth)][truth.images]
    return best_anchor_ious(truth.boxes, sizes, resized.min_size, resized.max_size, levels)


def _stride_limit(annotations: SemanticAnnotations, model: Segmenter, images: Sequence[int]) -> StrideLimit | None:
    """The limit of some of the evaluated ``images``, ``LIMIT_PIXELS`` in all; None for a network without a stride."""
    if model.stride is None:
        return None
    pixels = len(images) * annotations.labels(images[0]).size
    labels = (annotations.labels(image) for image in images[:: max(1, -(-pixels // LIMIT_PIXELS))])
    return stride_limit(labels, len(annotations.classes), model.stride, model.preprocessing)


def _about(task: Task, data: Any, origin: Path | None) -> dict[str, str]:
    """Model, data and checkpoint with their digests, command, versions and date."""
    model = type(task.model).__name__
    backbone = getattr(task.model, "backbone", None)
    backbone = getattr(backbone, "backbone", backbone)  # of a pyramid
    about = {
        "model": f"{model}, {type(backbone).__name__}" if backbone is not None else model,
        "data": str(getattr(data, "root", data.val_annotations.root)),
        "images": str(data.val_annotations.root),
        "digest of the labels": data.val_annotations.fingerprint(),
    }
    if origin and origin.is_file():
        with origin.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        about |= {"checkpoint": str(origin), "sha256 of the checkpoint": digest}
    return about | {
        "command": shlex.join(["detseg", *sys.argv[1:]]),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": f"detseg {detseg.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    }


def check_thresholds(task: DetectionTask, path: Path, which: str) -> None:
    """Raise ConfigError if no metric keeps the detections of thresholds, or the checkpoint ``path`` is no file."""
    if task.detection_metric is None:
        raise ConfigError(f"--thresholds {which}: no metric of the checkpoint keeps detections; leave it out")
    if not path.is_file():
        raise ConfigError(f"--thresholds {which}: {path} is a published model; give the checkpoint it was made from")


def save_thresholds(task: DetectionTask, path: Path, which: Literal["best-f1", "cheapest"], miss_cost: float) -> None:
    """Save the score threshold of each class, by the last validation, in the metadata of the checkpoint ``path``.

    A class without a true positive gets that of all classes. Raises ConfigError if there is none at all.
    """
    metric = task.detection_metric
    assert metric is not None
    assert metric.ground_truth is not None
    assert metric.detections is not None
    run = DetectionRun(task.data.val_annotations, metric.ground_truth, metric.detections, metric.computed_classes, {})
    *of_classes, overall = run.boxes.curves
    chosen = [curve if curve.f1.any() else overall for curve in of_classes]
    thresholds = [curve.best_f1() if which == "best-f1" else curve.cheapest(miss_cost) for curve in chosen]
    if np.isnan(thresholds).any():
        raise ConfigError(f"--thresholds {which}: no detection is right, so that no threshold is better than another")
    content = checkpoint.read(path)
    content["detseg"]["thresholds"] = thresholds
    checkpoint_file.write(content, path)
    log.info("%s: saved the thresholds of %s, %s", path, counted(len(thresholds), "class"), which)
