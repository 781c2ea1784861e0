"""Accuracy against cost, as bubbles (Canziani et al. 2016, arXiv:1605.07678, figure 2)."""

from __future__ import annotations

import math
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
FONT = 7  # points
MANY = 8  # networks


class Cost(NamedTuple):
    """Cost and quality of a network."""

    name: str
    parameters: int
    multiply_adds: int  # of an image
    seconds: float  # of an image, the median; NaN if it was not measured
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
    """Draw the metric over multiply-adds, and over time if that was measured; a bubble's area is the parameters."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = to_figure(SIZE)
    figure.suptitle("Accuracy against cost; the area of a bubble is the number of parameters")
    most = max(cost.parameters for cost in costs)
    panels = {"billion multiply-adds of an image": [cost.multiply_adds / 1e9 for cost in costs]}
    if not any(math.isnan(cost.seconds) for cost in costs):
        panels["milliseconds of an image"] = [1e3 * cost.seconds for cost in costs]
    for place, (label, values) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), place, xscale="log", xlabel=label, ylabel=escape(metric))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())  # its labels would overlap those of other decades
        for cost, x, color in zip(costs, values, cycle(COLORS), strict=False):
            axes.scatter(x, cost.metric, LARGEST * cost.parameters / most, color=color, alpha=0.5, edgecolor=color)
            size = f"\n{cost.parameters / 1e6:.1f} M" if len(costs) < MANY else ""
            axes.annotate(f"{escape(cost.name)}{size}", (x, cost.metric), fontsize=FONT)
        axes.margins(0.25 if len(costs) < MANY else 0.1)
        axes.grid(alpha=0.4, which="both")
    return pixels_of(figure)
