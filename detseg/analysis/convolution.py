"""Convolution arithmetic, drawn: the cells that an output of a convolution reads, or that its transpose writes.

After Dumoulin and Visin 2016 (A guide to convolution arithmetic for deep learning, arXiv:1603.07285).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from detseg.analysis.charts import pixels_of, to_figure
from detseg.draw import ImageArray

READ, CELL, EMPTY, PADDING = "#D55E00", "#0072B2", "#DCEAF4", "#F4F4F4"
PANEL = 230  # pixels
MAX_PANELS = 6


class Convolution(NamedTuple):
    """A convolution along one side of a square map; ``transposed`` swaps the roles of input and output."""

    size: int  # cells of the input
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    transposed: bool = False

    @property
    def output_size(self) -> int:
        """Cells of the output (relationships 6 and 14 of the guide, with dilation)."""
        extent = self.dilation * (self.kernel - 1) + 1  # of the kernel, its holes included
        if self.transposed:
            return (self.size - 1) * self.stride - 2 * self.padding + extent
        return (self.size + 2 * self.padding - extent) // self.stride + 1

    def __str__(self) -> str:
        name = "transposed convolution" if self.transposed else "convolution"
        options = [f"stride {self.stride}", f"padding {self.padding}"]
        options += [f"dilation {self.dilation}"] if self.dilation > 1 else []
        sizes = f"{self.size} to {self.output_size} cells"
        return f"{name} {self.kernel} x {self.kernel}, {', '.join(options)}: {sizes}"


def touched(convolution: Convolution, cell: tuple[int, int]) -> NDArray[np.bool_]:
    """Mark the cells that an output ``cell`` (row, column) reads, in the input with its padding.

    Of a transposed convolution, those that an input cell writes, in the output with what its padding cuts off. Computed
    by the convolution itself, with a kernel of ones.
    """
    kernel = torch.ones(1, 1, convolution.kernel, convolution.kernel)
    stride, dilation = convolution.stride, convolution.dilation
    if convolution.transposed:
        inputs = torch.zeros(1, 1, convolution.size, convolution.size)
        inputs[0, 0, *cell] = 1
        return np.asarray(F.conv_transpose2d(inputs, kernel, stride=stride, dilation=dilation)[0, 0] > 0)
    side = convolution.size + 2 * convolution.padding
    inputs = torch.zeros(1, 1, side, side, requires_grad=True)
    F.conv2d(inputs, kernel, stride=stride, dilation=dilation)[0, 0, *cell].backward()  # type: ignore[no-untyped-call]
    assert inputs.grad is not None
    return np.asarray(inputs.grad[0, 0] > 0)


def draw_convolution(convolution: Convolution) -> ImageArray:
    """Draw a panel for each cell of the first row of the output (transposed: of the input), at most six."""
    from matplotlib.patches import Rectangle

    small = convolution.size if convolution.transposed else convolution.output_size
    count = min(small, MAX_PANELS)
    figure = to_figure((count * PANEL + 40, 2 * PANEL + 70))
    figure.suptitle(str(convolution))
    for column in range(count):
        large = touched(convolution, (0, column))
        inner = len(large) - 2 * convolution.padding
        for row, (side, padding) in enumerate(((small, 0), (inner, convolution.padding))):
            axes = figure.add_subplot(2, count, row * count + column + 1)
            axes.set(xlim=(-0.1, len(large) + 0.1), ylim=(len(large) + 0.1, -0.1), aspect="equal")
            axes.axis("off")
            shift = 0 if row else (len(large) - small) / 2
            for y, x in np.ndindex(side + 2 * padding, side + 2 * padding):
                inside = padding <= min(y, x) and max(y, x) < side + padding
                color = EMPTY if inside else PADDING
                if row:
                    color = READ if large[y, x] else color
                elif (y, x) == (0, column):
                    color = CELL
                edge, line = ("black", "-") if inside else ("#AAAAAA", ":")
                place = (x + shift, y + shift)
                axes.add_patch(Rectangle(place, 1, 1, facecolor=color, edgecolor=edge, linestyle=line))
            if column == 0:
                names = ("input", "output") if convolution.transposed else ("output", "input")
                axes.set_title(names[row], loc="left", fontsize=10)
    return pixels_of(figure)
