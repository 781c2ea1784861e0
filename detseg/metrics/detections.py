"""Detections on a whole data set, and how they are collected over batches and devices."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from detseg.structures import Instances


class Detections(NamedTuple):
    """Detections on the images of an ``Annotations``, one row each, in the order of the images."""

    images: NDArray[np.int64]  # (M,) row of the image in its Annotations
    boxes: NDArray[np.float64]  # (M, 4) xyxy, pixels of the image file
    labels: NDArray[np.int64]  # (M,) 0..K-1
    scores: NDArray[np.float64]  # (M,)


class Collector:
    """Keeps the detections of one pass over a data set.

    They stay on their device, padded, until they are asked for: adding a batch never waits for the device.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Instances]] = []

    def reset(self) -> None:
        """Forget everything, before another pass."""
        self.batches.clear()

    def add(self, rows: Tensor, detections: Instances) -> None:
        """Add a batch: the images' rows in their Annotations (B,), and detections in pixels of the image files."""
        self.batches.append((rows, detections))

    def gather(self) -> Detections:
        """All detections of all ranks, the same on every rank, bit for bit those of a single process.

        Every rank must call it, also one that has seen no image. Each image must have been given to one rank only.
        """
        shards = [self._own()]
        if dist.is_available() and dist.is_initialized():
            shards = [shards[0]] * dist.get_world_size()
            dist.all_gather_object(shards, shards[0])
        whole = Detections._make(np.concatenate(columns) for columns in zip(*shards, strict=True))
        # Stable: the detections of one image come from one rank, and keep the order the model gave them in.
        order = np.argsort(whole.images, kind="stable")
        return Detections._make(column[order] for column in whole)

    def _own(self) -> Detections:
        """The detections of this process, without the padding."""
        # One selection for the whole data set: each one waits for the device.
        valid = torch.cat([found.valid.flatten() for _, found in self.batches] or [torch.zeros(0, dtype=torch.bool)])
        images = [rows[:, None].expand_as(found.valid) for rows, found in self.batches]
        boxes = [found.boxes for _, found in self.batches]
        labels = [_present(found.labels, "labels") for _, found in self.batches]
        scores = [_present(found.scores, "scores") for _, found in self.batches]
        return Detections(
            _array(images, valid, torch.int64),
            _array(boxes, valid, torch.float64).reshape(-1, 4),
            _array(labels, valid, torch.int64),
            _array(scores, valid, torch.float64),
        )


def _present(column: Tensor | None, name: str) -> Tensor:
    if column is None:
        raise ValueError(f"detections have no {name}")
    return column


def _array(parts: list[Tensor], valid: Tensor, dtype: torch.dtype) -> NDArray[Any]:
    """The objects of all batches (B, N, ...) that are not padding."""
    column = torch.cat([part.flatten(0, 1) for part in parts] or [torch.zeros(0)])
    return column[valid].cpu().to(dtype).numpy()
