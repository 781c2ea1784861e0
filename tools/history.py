"""Repeat the history of region-based detectors: R-CNN, Fast R-CNN and Faster R-CNN, from one backbone on one data set.

    python tools/history.py --data.root my/folder [--weights mobilenet_v2.pth] [--SETTING VALUE ...]

Makes the proposals of selective search, trains the three by configs/history_*.yaml, and prints what each finds, how
long it trains, and how long it takes over an image of the validation set, split into proposals, convolutional network
and head. Draws these times, and writes all values as JSON. Other settings go to each training. Finished trainings are
not repeated, interrupted ones continue. ``--ablation`` looks at the validation set once more, with R-CNN's softmax in
place of its support vector machines, and without its regressors (R-CNN, appendix B and table 2).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import nn

from detseg import checkpoint, cli
from detseg.cli import _console
from detseg.configurable import from_config
from detseg.data import DetectionDataModule
from detseg.data.loading.proposals import Proposals, cache_file
from detseg.errors import ConfigError
from detseg.metrics import CocoAP, annotation_targets
from detseg.models import RCNN, FasterRCNN
from detseg.structures import rescale

SYSTEMS = {"rcnn": "R-CNN", "fast_rcnn": "Fast R-CNN", "faster_rcnn": "Faster R-CNN"}
PROPOSALS = Path("proposals/history")


class Record(NamedTuple):
    """AP at IoU 0.5 of a system, seconds of its training, and seconds per image of each part of its test."""

    system: str
    ap50: float
    training: float | None  # unknown where it was interrupted
    proposals: float
    cnn: float
    head: float


def train(system: str, settings: list[str]) -> float | None:
    """Train a system, or continue its training. Returns its seconds, or None if it was interrupted.

    Raises ConfigError if it has been trained with other settings, or cannot go on.
    """
    folder = Path("runs") / f"history_{system}"
    if folder.exists() and not (folder / "last.ckpt").exists():
        raise ConfigError(f"{folder} was left by a training that ended before its first checkpoint: remove it")
    done = folder / "seconds.json"
    if not done.exists():
        resume = ["--resume", "last"] if (folder / "last.ckpt").exists() else []
        start = time.perf_counter()
        cli.main(["train", "--config", f"history_{system}.yaml", *settings, *resume])
        seconds = None if resume else time.perf_counter() - start
        done.write_text(json.dumps({"seconds": seconds, "settings": settings}), encoding="utf-8")
    about = json.loads(done.read_text(encoding="utf-8"))
    if about["settings"] != settings:
        raise ConfigError(f"{folder} was trained with {' '.join(about['settings'])}: remove it, to train it otherwise")
    return about["seconds"]  # type: ignore[no-any-return]


def timed(owner: nn.Module, method: str) -> list[float]:
    """Record the seconds of each call of a method from now on."""
    seconds: list[float] = []
    original: Callable[..., Any] = getattr(owner, method)

    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = original(*args, **kwargs)
        seconds.append(time.perf_counter() - start)
        return result

    setattr(owner, method, call)
    return seconds


@torch.inference_mode()
def test(system: str, images: int, training: float | None) -> Record:
    """Measure a trained system on the first ``images`` of the validation set, one by one."""
    task = checkpoint.load(Path("runs") / f"history_{system}" / "last.ckpt")
    data = from_config(task.data_recipe)
    assert isinstance(data, DetectionDataModule)
    model = task.model
    total = timed(model, "forward")
    cnn = timed(model, "features") if isinstance(model, RCNN) else timed(model.backbone, "forward")
    rpn_times = [timed(model.rpn, name) for name in ("forward", "propose")] if isinstance(model, FasterRCNN) else []
    dataset = data.dataset("val")
    count = min(images, len(dataset))  # type: ignore[arg-type]
    for row in [0, *range(count)]:  # the first once more: it warms up
        if row == 0:
            for seconds in (total, cnn, *rpn_times):
                seconds.clear()
        batch = DetectionDataModule.collate([dataset[row]], data.pad_shapes)
        model(batch.images, batch.image_sizes, batch.proposals)
    proposals = sum(map(sum, rpn_times)) / count
    head = (sum(total) - sum(cnn)) / count - proposals
    if model.needs_proposals:
        annotations = data.annotations("val")
        proposals = Proposals(cache_file(PROPOSALS, "val"), annotations, "detseg propose").seconds()
    return Record(SYSTEMS[system], task.metric_values["AP50"], training, proposals, sum(cnn) / count, head)


@torch.inference_mode()
def ablation() -> None:
    """Print AP50 of R-CNN with each of its two scores, with and without refined boxes."""
    task = checkpoint.load(Path("runs") / "history_rcnn" / "last.ckpt")
    data, model = from_config(task.data_recipe), task.model
    dataset = data.dataset("val")
    variants = list(itertools.product(("svm", "softmax"), (True, False)))
    annotations = data.annotations("val")
    metrics = {variant: CocoAP(annotations.classes) for variant in variants}
    for row in range(len(dataset)):
        batch = DetectionDataModule.collate([dataset[row]], data.pad_shapes)
        with torch.autocast("cpu", torch.bfloat16):
            features = model.features(batch.images, batch.image_sizes, batch.proposals)
        for model.scores, model.box_regression in variants:
            detections = model.detect(features, batch.proposals, batch.image_sizes)
            in_file = rescale(detections, batch.image_sizes, batch.original_sizes)
            metrics[model.scores, model.box_regression].update(in_file, annotation_targets(annotations, [row]))
    for (scores, boxes), metric in metrics.items():
        values = metric.compute()
        refined = "refined boxes" if boxes else "proposals as they are"
        print(f"R-CNN, {scores}, {refined}: AP {values['AP']:.3f}, AP50 {values['AP50']:.3f}")


def history(arguments: Sequence[str]) -> None:
    """Train and test the three systems, and report their accuracy and times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data.root", dest="root", required=True, help="a folder as PASCAL VOC's")
    parser.add_argument("--weights", help="of MobileNetV2: a file; by default torchvision's are fetched")
    parser.add_argument("--images", type=int, default=40, help="of the validation set, for the times of the test")
    parser.add_argument("--ablation", action="store_true", help="of R-CNN's scores and boxes")
    parser.add_argument(
        "--out", type=Path, default=Path("history.png"), help="the chart; its values are written beside it as JSON"
    )
    options, settings = parser.parse_known_args(arguments)
    settings += ["--data.root", options.root]
    splits = [value for value in settings if value.startswith(("--data.split.train=", "--data.split.val="))]
    cli.main(["propose", "--data", "VOC", "--data.root", options.root, *splits, "--out", str(PROPOSALS)])
    if options.weights:
        settings += ["--model.backbone.weights", options.weights]
    records = [test(system, options.images, train(system, settings)) for system in SYSTEMS]
    report(records, options.out)
    if options.ablation:
        ablation()


def report(records: list[Record], out: Path) -> None:
    """Print the table, draw the times, and write both as JSON."""
    print(f"\n{'':14}{'AP50':>7}{'training':>12}{'test: proposals':>18}{'CNN':>10}{'head':>10}{'sum':>10}")
    for record in records:
        parts = record.proposals, record.cnn, record.head
        training = "-" if record.training is None else f"{record.training:.0f} s"
        seconds = "".join(f"{part:8.3f} s" for part in (*parts[1:], sum(parts)))
        print(f"{record.system:14}{record.ap50:7.3f}{training:>12}{parts[0]:16.3f} s{seconds}")
    rcnn, *later = (record.cnn + record.head for record in records)
    for record, seconds in zip(records[1:], later, strict=True):
        print(f"{record.system} is {rcnn / seconds:.0f} times as fast as R-CNN, without the proposals")
    figure = Figure((9, 5.2), dpi=100, layout="constrained")
    axes = figure.add_subplot(title="Where the time of a test goes", ylabel="seconds per image", yscale="log")
    for index, (name, label) in enumerate({"proposals": "proposals", "cnn": "CNN", "head": "head"}.items()):
        places = [place + 0.27 * (index - 1) for place in range(len(records))]
        bars = axes.bar(places, [getattr(record, name) for record in records], 0.24, label=label)
        axes.bar_label(bars, fmt="%.2g", padding=2)
    axes.set_xticks(range(len(records)), [record.system for record in records])
    axes.legend()
    figure.savefig(out)
    values = [record._asdict() for record in records]
    out.with_suffix(".json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    print(f"chart: {out}; values: {out.with_suffix('.json')}")


if __name__ == "__main__":
    _console.run("history", history, sys.argv[1:])
