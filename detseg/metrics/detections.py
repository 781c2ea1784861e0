"""Detections on a whole data set, and how they are collected over batches and devices."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from detseg.ops.rle import box_masks_to_rle
from detseg.structures import Instances


class Detections(NamedTuple):
    """Detections on the images of an ``DetectionAnnotations``, one row each, in the order of the images."""

    images: NDArray[np.int64]  # (M,) row of the image in its Annotations
    boxes: NDArray[np.float64]  # (M, 4) xyxy, pixels of the image file
    labels: NDArray[np.int64]  # (M,) 0..K-1
    scores: NDArray[np.float64]  # (M,)
    masks: NDArray[np.object_] | None = None  # (M,) bytes, the text of run lengths, see ops.rle


class Collector:
    """Keeps the detections of one pass over a data set.

    They stay on their device, padded, until they are asked for: adding a batch never waits for the device. Masks alone
    are fetched and made run lengths at once, since those of a whole data set would fill the memory. ``masks`` says
    whether there are any.
    """

    def __init__(self, masks: bool = False) -> None:
        self.batches: list[tuple[Tensor, Instances]] = []
        self.masks: list[bytes] | None = [] if masks else None

    def reset(self) -> None:
        """Forget everything, before another pass."""
        self.batches.clear()
        self.masks = None if self.masks is None else []

    def add(self, rows: Tensor, detections: Instances, sizes: Tensor | None = None) -> None:
        """Add a batch: the images' rows in their Annotations (B,), and detections in pixels of the image files.

        Where detections have masks (B, N, S, S), ``sizes`` (B, 2) are the heights and widths of these files.
        """
        if self.masks is not None:
            if sizes is None:
                raise ValueError("masks need the sizes of their images")
            for image, (height, width) in enumerate(sizes.tolist()):
                self.masks += image_runs(detections, image, height, width)
        self.batches.append((rows, detections._replace(masks=None)))

    def gather(self) -> Detections:
        """All detections of all ranks, the same on every rank, bit for bit those of a single process.

        Every rank must call it, also one that has seen no image. Each image must have been given to one rank only.
        """
        shards = [self._own()]
        if dist.is_available() and dist.is_initialized():
            shards = [shards[0]] * dist.get_world_size()
            dist.all_gather_object(shards, shards[0])
        # Stable: the detections of one image come from one rank, and keep the order the model gave them in.
        order = np.argsort(np.concatenate([shard.images for shard in shards]), kind="stable")
        return Detections._make(
            None if columns[0] is None else np.concatenate(columns)[order] for columns in zip(*shards, strict=True)
        )

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
            None if self.masks is None else np.array([*self.masks, None], dtype=object)[:-1],
        )


def image_runs(detections: Instances, image: int, height: int, width: int) -> list[bytes]:
    """The masks of the detections of one image of a batch, which are in pixels of its file, as text of run lengths."""
    valid = detections.valid[image]
    masks, boxes = (
        _present(value, "masks")[image][valid].float().cpu().numpy() for value in (detections.masks, detections.boxes)
    )
    return list(box_masks_to_rle(masks, boxes, height, width))


def _present(column: Tensor | None, name: str) -> Tensor:
    if column is None:
        raise ValueError(f"detections have no {name}")
    return column


def _array(parts: list[Tensor], valid: Tensor, dtype: torch.dtype) -> NDArray[Any]:
    """The objects of all batches (B, N, ...) that are not padding."""
    column = torch.cat([part.flatten(0, 1) for part in parts] or [torch.zeros(0)])
    return column[valid].cpu().to(dtype).numpy()
