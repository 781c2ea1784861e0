"""Sliding windows at regular places, the baseline for other proposals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIDES = 2.0 ** (-np.arange(7) / 2)  # of a square window, in terms of that of a square as large as the image
RATIOS = (0.5, 1.0, 2.0)  # height to width
STEP = 0.5  # to the next window, in terms of the window


def grid(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Boxes (N, 4), xyxy, that cover ``image`` (h, w, 3) at seven scales and three ratios; largest first."""
    height, width = image.shape[:2]
    boxes = []
    for side in SIDES * np.sqrt(height * width):
        for ratio in RATIOS:
            x1, x2 = _spans(side / np.sqrt(ratio), width)
            y1, y2 = _spans(side * np.sqrt(ratio), height)
            corners = np.meshgrid(y1, x1, indexing="ij"), np.meshgrid(y2, x2, indexing="ij")
            boxes.append(np.stack([axis.ravel() for pair in corners for axis in reversed(pair)], axis=1))
    windows = np.concatenate(boxes).astype(np.float32)
    _, first = np.unique(windows, axis=0, return_index=True)
    return windows[np.sort(first)]


def _spans(side: float, length: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the starts and ends of windows of a side along an edge of the image."""
    side = min(side, length)
    starts = np.linspace(0, length - side, int(np.ceil((length - side) / (side * STEP))) + 1)
    return starts, starts + side
