"""The misalignment of RoIPool, drawn and measured against RoIAlign (Mask R-CNN, section 3 and figure 3).

A map whose values are the positions of its cells turns pooling into a ruler: a bin should give the position of its
middle, and the difference is the misalignment in pixels. Cell (i, j) has its centre at the pixel (i, j) x stride, as
strided convolutions of odd size, padded on both sides, and the papers have it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor

from detseg.analysis.anchors import draw_boxes
from detseg.analysis.charts import pixels_of, to_figure
from detseg.draw import ImageArray

POOL, ALIGN, REGION = "#D55E00", "#009E73", "#0072B2"
SIZE = (1120, 560)  # pixels of the picture


class Misalignment(NamedTuple):
    """Distances (S * S,) in pixels between the positions that bins give and their middles."""

    pool: NDArray[np.float32]
    align: NDArray[np.float32]


def quantized(box: NDArray[np.float64], stride: int) -> NDArray[np.float64]:
    """Return the cells that RoIPool reads instead of a box, in pixels: from that of one corner to that of the other."""
    x1, y1, x2, y2 = np.floor(np.asarray(box) / stride + 0.5)
    return np.array([x1 - 0.5, y1 - 0.5, x2 + 0.5, y2 + 0.5]) * stride


def misalignment(box: NDArray[np.float64], stride: int, bins: int, sampling_ratio: int = 2) -> Misalignment:
    """Pool a map of positions with both, and compare each bin with its middle.

    RoIPool's position is the mean of the largest and the smallest in a bin.
    """
    side = int(np.ceil(np.max(box) / stride)) + 3
    centre = torch.arange(side) * float(stride)
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    positions = torch.stack([x, y])[None]
    roi = torch.tensor([[0.0, *np.asarray(box).tolist()]])
    largest, smallest = (
        sign * torchvision.ops.roi_pool(sign * positions, roi, bins, 1 / stride)[0] for sign in (1, -1)
    )
    aligned = torchvision.ops.roi_align(positions, roi, bins, 1 / stride, sampling_ratio, aligned=False)[0]
    x1, y1, x2, y2 = np.asarray(box).tolist()
    middle = (torch.arange(bins) + 0.5) / bins
    rows, columns = torch.meshgrid(y1 + (y2 - y1) * middle, x1 + (x2 - x1) * middle, indexing="ij")
    expected = torch.stack([columns, rows])

    def distance(values: Tensor) -> NDArray[np.float32]:
        return np.asarray((values - expected).norm(dim=0).flatten())

    return Misalignment(distance((largest + smallest) / 2), distance(aligned))


def draw_misalignment(image: ImageArray, box: NDArray[np.float64], stride: int, bins: int) -> ImageArray:
    """Draw the box, the cells that RoIPool rounds it to and their bins; beside it RoIAlign's bins and samples."""
    measured = misalignment(box, stride, bins)
    rounded = quantized(box, stride)
    figure = to_figure(SIZE)
    grid_lines = np.arange(-0.5, max(image.shape[:2]) / stride + 1) * stride
    low, high = np.minimum(box[:2], rounded[:2]) - 1.5 * stride, np.maximum(box[2:], rounded[2:]) + 1.5 * stride
    for place, (name, distances) in enumerate(zip(("RoIPool", "RoIAlign"), measured, strict=True), 1):
        axes = figure.add_subplot(1, 2, place)
        axes.imshow(image, alpha=0.6, extent=(0, image.shape[1], image.shape[0], 0))
        axes.set_xticks(grid_lines, ["" for _ in grid_lines])
        axes.set_yticks(grid_lines, ["" for _ in grid_lines])
        axes.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]))
        axes.grid(color="white", linewidth=1)
        draw_boxes(axes, np.asarray(box)[None], REGION, "region", 2.5)
        if name == "RoIPool":
            draw_boxes(axes, rounded[None], POOL, "cells it is rounded to", 2.5)
            draw_boxes(axes, pool_bins(box, stride, bins), POOL, "bins, which overlap")
        else:
            edges = [np.linspace(box[axis], box[axis + 2], bins + 1) for axis in (0, 1)]
            grid = [(edges[0][j], edges[1][i], edges[0][j + 1], edges[1][i + 1]) for i, j in np.ndindex(bins, bins)]
            draw_boxes(axes, np.array(grid), ALIGN, "bins")
            x, y = (np.concatenate([e[:-1] + f * np.diff(e) for f in (0.25, 0.75)]) for e in edges)
            axes.plot(*(part.ravel() for part in np.meshgrid(x, y)), ".", color=ALIGN, markersize=4, label="samples")
        axes.set_title(f"{name}: {distances.mean():.1f} pixels off on average, {distances.max():.1f} at most")
        axes.legend(loc="lower right", fontsize=8)
    return pixels_of(figure)


def pool_bins(box: NDArray[np.float64], stride: int, bins: int) -> NDArray[np.float64]:
    """Return the bins (S * S, 4) of RoIPool in pixels: edges between its cells are rounded outwards."""
    x1, y1, x2, y2 = quantized(box, stride) / stride
    edges = []
    for start, length in ((x1, x2 - x1), (y1, y2 - y1)):
        steps = np.arange(bins)
        low, high = np.floor(steps * length / bins), np.ceil((steps + 1) * length / bins)
        edges.append(np.stack([start + low, start + high], axis=1) * stride)
    columns, rows = edges
    return np.array([(columns[j, 0], rows[i, 0], columns[j, 1], rows[i, 1]) for i, j in np.ndindex(bins, bins)])
