"""The training log: curves by step, and the causes of a poor result that they show."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detseg.report.evaluation import Cause, DetectionRun

MIN_FALL = 0.1  # share of the loss that a training which learns something removes
USUAL_LR = {"sgd": 0.02, "adamw": 1e-4}  # for 16 images; a hundredth of it is small
FEW_STEPS = 200
POINTS = 8  # values at each end that are averaged
STILL_FALLING, SIGNIFICANT = 0.1, 3.0  # share of the loss removed in the second half, and its standard errors
MIN_VALIDATIONS = 4
STILL_RISING = 0.1  # share of the metric gained in the last quarter of the validations
METRICS = ("val/AP", "val/AP50", "val/mask_AP", "val/mean_IoU", "val/top1", "val/top5")
OVERFIT = 1.3  # times the lowest validation loss


def read_history(folder: Path) -> list[dict[str, float]]:
    """Read the numbers of metrics.csv of a run, with those of its earlier parts; empty without a log."""
    parts = {path.stem.partition("-")[2]: path for path in folder.glob("metrics-*.csv")}
    earlier = [parts[number] for number in sorted(filter(str.isdecimal, parts), key=int)]
    rows = []
    for path in [*earlier, folder / "metrics.csv"]:
        if path.exists():
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                table = [{name: _number(text) for name, text in row.items()} for row in csv.DictReader(file)]
            rows += [{name: value for name, value in row.items() if value is not None} for row in table]
    return [row for row in rows if "step" in row]


def _number(text: Any) -> float | None:
    """The number that a cell holds; None for another, as of a line that was cut off."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def series(history: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Steps and finite values of one column."""
    points = [(row["step"], row[name]) for row in history if name in row and math.isfinite(row[name])]
    return [step for step, _ in points], [value for _, value in points]


def training_causes(run: DetectionRun) -> Iterator[Cause]:
    """Report a run that hardly learnt, was too short, or overfitted."""
    ap50 = run.boxes.tide.ap50
    rest = 1 - (0.0 if math.isnan(ap50) else ap50)
    if rest > 0.5:
        yield from _losses(run, rest)
    yield from _validations(run.history, rest)


def _losses(run: DetectionRun, rest: float) -> Iterator[Cause]:
    """Report the first that applies: too small a learning rate, few steps, a flat loss, one that still falls."""
    steps, losses = series(run.history, "train/loss")
    if len(losses) < 2:
        return
    ends = max(1, min(POINTS, len(losses) // 4))
    first, last = np.mean(losses[:ends]), np.mean(losses[-ends:])
    task = run.settings.get("task", {})
    lr, optimizer = task.get("lr"), task.get("optimizer", {}).get("name", "sgd").lower()
    usual = USUAL_LR.get(optimizer, 0.0)
    if flat := first <= 0 or 1 - last / first < MIN_FALL:
        change = f"The training loss only went from {first:.3g} to {last:.3g} in {steps[-1] + 1:.0f} steps"
    if flat and isinstance(lr, (int, float)) and lr <= usual / 100:
        common = f"{usual:g} for a batch of 16 images is usual with {optimizer}"
        text = f"{change}: the learning rate, {lr:g}, is too small; {common}."
        yield Cause("lr-small", text, rest)
    elif steps[-1] < FEW_STEPS:
        yield Cause("too-short", f"The training took only {steps[-1] + 1:.0f} steps: train longer.", rest)
    elif flat:
        text = f"{change}: the learning rate, {lr}, is unsuitable, or the labels cannot be learnt."
        yield Cause("loss-flat", text, rest)
    elif (fall := _fall_at_end(run.history)) > STILL_FALLING:
        yield Cause(
            "loss-falling",
            f"The training loss still fell by {100 * fall:.0f} % in the second half of the {steps[-1] + 1:.0f} steps: "
            "train longer.",
            min(rest, fall),
        )


def _fall_at_end(history: Sequence[Mapping[str, float]]) -> float:
    """The share of the loss that its trend in the second half of the steps removes; 0 without a significant trend.

    Where the learning rate ends below half of its maximum, its schedule makes the loss fall. With several validations,
    these tell whether more steps help.
    """
    if len(series(history, "val/AP50")[1]) >= MIN_VALIDATIONS:
        return 0.0
    for name in dict.fromkeys(key for row in history for key in row if key.startswith("lr")):
        rates = series(history, name)[1]
        if rates and rates[-1] < max(rates) / 2:
            return 0.0
    steps, losses = (np.array(values) for values in series(history, "train/loss"))
    second = steps >= (steps[0] + steps[-1]) / 2
    if second.sum() < POINTS:
        return 0.0
    (slope, start), covariance = np.polyfit(steps[second] - steps[second][0], losses[second], 1, cov=True)
    significant = slope < -SIGNIFICANT * math.sqrt(covariance[0, 0])
    return float(-slope * np.ptp(steps[second]) / start) if significant else 0.0


def _validations(history: Sequence[Mapping[str, float]], rest: float) -> Iterator[Cause]:
    _, values = series(history, "val/AP50")
    quarter = max(1, len(values) // 4)
    if len(values) >= MIN_VALIDATIONS and values[-1] > 0 and values[-1] == max(values):
        gain = 1 - max(values[:-quarter]) / values[-1]
        if gain > STILL_RISING and rest > 0.3:
            yield Cause(
                "still-rising",
                f"AP50 rose by {100 * gain:.0f} % in the last quarter of the training: train longer.",
                min(rest, gain),
            )
    _, losses = series(history, "val/loss")
    _, training = series(history, "train/loss")
    if len(losses) >= MIN_VALIDATIONS and training:
        lowest = min(losses)
        over = np.mean(losses[-quarter:]) / lowest if lowest > 0 else 1.0
        if over > OVERFIT and np.mean(training[-POINTS:]) < 0.7 * losses[-1]:
            yield Cause(
                "over-fitting",
                f"The validation loss is {over:.1f} times its lowest, while the training loss is "
                f"{np.mean(training[-POINTS:]):.3g}: the model overfits. Use the best checkpoint, more data, or "
                "stronger augmentation.",
                min(rest, 0.3),
            )


def training_lines(history: Sequence[Mapping[str, float]]) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """Lines by chart and name: losses of training and validation, metrics, and the learning rate."""
    names = dict.fromkeys(name for row in history for name in row)
    charts = {
        "loss": [name for name in names if name in ("train/loss", "val/loss")],
        "losses by stage": [name for name in names if name.startswith("train/loss_")],
        "metrics": [name for name in names if name in METRICS],
        "learning rate": [name for name in names if name.startswith("lr")],
        "seconds per step": [name for name in names if name.startswith("time/")],
        "peak memory, GiB": [name for name in names if name.startswith("memory/")],
    }
    lines = {
        chart: {name: line for name in of_chart if len((line := series(history, name))[0]) > 1}
        for chart, of_chart in charts.items()
    }
    return {chart: of_chart for chart, of_chart in lines.items() if of_chart}
