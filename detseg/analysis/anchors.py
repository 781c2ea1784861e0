"""Anchors, matched anchors and proposals, drawn on an image."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detseg.analysis.charts import pixels_of, to_figure
from detseg.draw import ImageArray
from detseg.modules import AnchorGenerator
from detseg.modules.target_assignment import NEGATIVE, POSITIVE, Matcher
from detseg.ops.boxes import iou

LEVEL_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
TRUTH = "#FFFF33"
PANEL = 560  # pixels, the width of a panel


class Level(NamedTuple):
    """The anchors of one map, and their match labels with the objects of an image."""

    stride: int
    anchors: NDArray[np.float32]  # (A, 4) row by row, those of a cell together
    base: NDArray[np.float32]  # (n, 4) of a cell
    match_labels: NDArray[np.int8]  # (A,) POSITIVE, NEGATIVE or IGNORED


def match_anchors(
    generator: AnchorGenerator, matcher: Matcher, strides: list[int], shape: tuple[int, int], boxes: NDArray[np.float64]
) -> list[Level]:
    """Match the anchors of an image (H, W) with its objects' boxes (N, 4), as the loss of the RPN does."""
    generator.build(strides)
    maps = [torch.empty(1, 1, *(-(-length // stride) for length in shape)) for stride in strides]
    anchors = generator(maps, shape)
    truth: Tensor = torch.from_numpy(np.asarray(boxes, dtype=np.float32))[None]
    overlap = iou(truth, torch.cat(anchors))
    labels = matcher(overlap, torch.ones(1, len(boxes), dtype=torch.bool))[1][0]
    parts = labels.split([len(level) for level in anchors])  # type: ignore[no-untyped-call]
    return [
        Level(stride, level.numpy(), base.numpy(), part.numpy())
        for stride, level, base, part in zip(strides, anchors, generator.base_anchors, parts, strict=True)
    ]


def count_matches(levels: list[Level]) -> list[tuple[int, int, int, int, int]]:
    """Count, for each level: its stride, its anchors, and how many are positive, negative and ignored."""
    counts = []
    for level in levels:
        positive, negative = ((level.match_labels == label).sum().item() for label in (POSITIVE, NEGATIVE))
        total = len(level.anchors)
        counts.append((level.stride, total, positive, negative, total - positive - negative))
    return counts


def draw_anchors(image: ImageArray, boxes: NDArray[np.float64], levels: list[Level]) -> ImageArray:
    """Draw the anchors of one cell of each map, and the positive anchors of all maps with the objects."""
    height, width = image.shape[:2]
    figure = to_figure((2 * PANEL, round(PANEL * height / width) + 90))
    shapes, matched = (figure.add_subplot(1, 2, place, xticks=[], yticks=[]) for place in (1, 2))
    shapes.set_title("anchors of the cell in the middle, by stride")
    matched.set_title(f"{len(boxes)} objects (yellow) and the anchors that match them")
    for axes in (shapes, matched):
        axes.imshow(image, alpha=0.75)
    for index, level in enumerate(levels):
        color = LEVEL_COLORS[index % len(LEVEL_COLORS)]
        middle = np.tile([width / 2, height / 2], 2)
        draw_boxes(shapes, level.base + middle, color, f"stride {level.stride}")
        positive = level.anchors[level.match_labels == POSITIVE]
        draw_boxes(matched, positive, color, f"stride {level.stride}: {len(positive)}")
    draw_boxes(matched, boxes, TRUTH, "", 2.5)
    for axes in (shapes, matched):
        axes.set(xlim=(-0.1 * width, 1.1 * width), ylim=(1.1 * height, -0.1 * height))
        axes.legend(loc="upper right", fontsize=8)
    return pixels_of(figure)


def draw_proposals(
    image: ImageArray, boxes: NDArray[np.float64], proposals: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
) -> ImageArray:
    """Draw the best proposals and their scores, one panel for each name, and the recall of the objects at IoU 0.5.

    ``proposals`` are boxes (P, 4) and scores (P,) by name, such as checkpoints of a training.
    """
    height, width = image.shape[:2]
    figure = to_figure((len(proposals) * PANEL, round(PANEL * height / width) + 60))
    for place, (name, (candidates, scores)) in enumerate(proposals.items(), 1):
        axes = figure.add_subplot(1, len(proposals), place, xticks=[], yticks=[])
        axes.imshow(image)
        for box, score in zip(candidates[::-1], scores[::-1], strict=True):
            draw_boxes(axes, box[None], "#D55E00", "", 0.8 + 1.2 * float(score))
        text = f"{name}: {len(candidates)} proposals"
        if len(boxes):
            draw_boxes(axes, boxes, TRUTH, "", 2)
            text += f", {recall(boxes, candidates)} of {len(boxes)} objects"
        axes.set_title(text, fontsize=10)
    return pixels_of(figure)


def recall(boxes: NDArray[np.float64], proposals: NDArray[np.float32]) -> int:
    """Count the objects (N, 4) that a proposal (P, 4) covers at IoU 0.5."""
    if not len(proposals):
        return 0
    first, second = (torch.from_numpy(np.asarray(part, dtype=np.float32)) for part in (boxes, proposals))
    return int((iou(first, second).amax(dim=1) >= 0.5).sum())


def draw_boxes(axes: object, boxes: NDArray[np.floating[Any]], color: str, label: str, width: float = 1.0) -> None:
    """Draw boxes (N, 4) on axes of matplotlib; the label enters the legend once."""
    from matplotlib.patches import Rectangle

    for row, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        frame = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=width, zorder=3)
        frame.set_label("" if row else label)
        axes.add_patch(frame)  # type: ignore[attr-defined]
