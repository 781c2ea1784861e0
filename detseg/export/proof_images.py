"""Images that break exports, and drawn ones beside them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.constants import MAX_PROPOSALS
from detseg.data.modules.shapes_generator import draw
from detseg.draw import grid
from detseg.export.graph import Frame
from detseg.resizing import resize

CROWD = 8  # images on each side of the crowded one


class ProofImage(NamedTuple):
    """An image in the frame."""

    name: str
    pixels: NDArray[np.uint8]  # (h, w, 3), at most as large as the frame
    target: dict[str, Any] | None = None  # the objects in pixels of the file, as ``CocoAP`` takes them


def special_images(frame: Frame) -> Iterator[ProofImage]:
    """Make an empty image, a single pixel, a frame full of noise, and one crowded with shapes.

    The empty one is nearly black: one colour would give many regions the same score, and leave their order to chance.
    """
    generator = np.random.default_rng(0)
    yield ProofImage("empty", generator.integers(0, 8, (*frame, 3), np.uint8))
    yield ProofImage("one pixel", generator.integers(0, 256, (1, 1, 3), np.uint8))
    yield ProofImage("full frame of noise", generator.integers(0, 256, (*frame, 3), np.uint8))
    crowd = [[draw([0, CROWD * y + x])[0] for x in range(CROWD)] for y in range(CROWD)]
    yield ProofImage("crowd", resize(grid(crowd), *frame))


def drawn_images(frame: Frame) -> Iterator[ProofImage]:
    """Draw images of shapes without end, resized to fit the frame in different ways."""
    height, width = frame
    generator = np.random.default_rng(1)
    for number in count():
        image, _ = draw([1, number])
        scale = min(height / image.shape[0], width / image.shape[1]) * generator.uniform(0.4, 1)
        sides = (max(1, int(side * scale)) for side in image.shape[:2])
        yield ProofImage(f"drawn {number}", resize(image, *sides))


def drawn_proposals(sizes: NDArray[np.int64], step: int) -> dict[str, NDArray[Any]]:
    """Draw proposals for images of these ``sizes`` (B, 2), hundreds where there is room for them.

    Their corners lie near a grid of ``step`` pixels, each at another place: RoIPool would round others to the same
    bins, and leave the order of their equal scores to chance.
    """
    boxes = np.zeros((len(sizes), MAX_PROPOSALS, 4), np.float32)
    counts = np.ones(len(sizes), np.int64)
    for row, (height, width) in enumerate(sizes.tolist()):
        generator = np.random.default_rng((height, width))
        corners = generator.integers(0, (width // step + 1, height // step + 1) * 2, (MAX_PROPOSALS, 4))
        corners = np.unique(corners[(corners[:, 2:] > corners[:, :2]).all(axis=1)], axis=0)
        near = step * corners + generator.uniform(-step / 4, step / 4, corners.shape)
        drawn = generator.permutation(near.clip(0, (width, height) * 2))
        boxes[row, 0] = (0, 0, width, height)
        boxes[row, 1 : 1 + len(drawn)] = drawn[: MAX_PROPOSALS - 1]
        counts[row] += min(len(drawn), MAX_PROPOSALS - 1)
    return {"proposals": boxes, "num_proposals": counts}
