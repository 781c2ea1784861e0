"""Accuracy against cost, as bubbles (Canziani et al. 2016, arXiv:1605.07678, figure 2)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from detseg.analysis.charts import COLORS, escape, pixels_of, to_figure
from detseg.draw import ImageArray

SIZE = (1100, 480)  # pixels of the picture
LARGEST = 1500  # points squared, the area of the largest bubble


class Cost(NamedTuple):
    """Cost and quality of a network."""

    name: str
    parameters: int
    multiply_adds: int  # of an image
    seconds: float  # of an image, the median
    metric: float


def measure(predict: Callable[[], object], repeats: int) -> tuple[int, float]:
    """Count the multiply-adds of a call, and measure its median time in seconds; a first call warms up."""
    with FlopCounterMode(display=False) as counter:
        predict()
    seconds = []
    for _ in range(repeats):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        predict()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return counter.get_total_flops() // 2, statistics.median(seconds)


def draw_efficiency(metric: str, costs: Sequence[Cost]) -> ImageArray:
    """Draw the metric over multiply-adds and over time; the area of a bubble is the number of parameters."""
    figure = to_figure(SIZE)
    figure.suptitle("Accuracy against cost; the area of a bubble is the number of parameters")
    most = max(cost.parameters for cost in costs)
    axes = [figure.add_subplot(1, 2, place, xscale="log", ylabel=escape(metric)) for place in (1, 2)]
    axes[0].set_xlabel("billion multiply-adds of an image")
    axes[1].set_xlabel("milliseconds of an image")
    for cost, color in zip(costs, cycle(COLORS), strict=False):
        for panel, x in zip(axes, (cost.multiply_adds / 1e9, 1e3 * cost.seconds), strict=True):
            panel.scatter(x, cost.metric, LARGEST * cost.parameters / most, color=color, alpha=0.5, edgecolor=color)
            panel.annotate(f"{escape(cost.name)}\n{cost.parameters / 1e6:.1f} M", (x, cost.metric), fontsize=8)
    for panel in axes:
        panel.margins(0.25)
        panel.grid(alpha=0.4, which="both")
    return pixels_of(figure)
