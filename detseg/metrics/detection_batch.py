"""Batches of detections with the objects in their images, as metrics of detection keep them until ``compute``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detseg.metrics.detections import (
    Detections,
    GroundTruth,
    ImageDict,
    as_objects,
    boxes_around,
    concatenate,
    counts_of,
    encode,
    offsets_of,
)
from detseg.ops.rle import box_masks_to_rle
from detseg.structures import Instances


@dataclass(frozen=True, eq=False)
class DetectionBatch:
    """Detections of some images, in one row for each slot, and the objects in these images."""

    images: Tensor  # (M,) position of the image among those of the batch
    boxes: Tensor  # (M, 4)
    labels: Tensor  # (M,)
    scores: Tensor  # (M,)
    valid: Tensor  # (M,) bool
    masks: NDArray[np.object_] | None  # of the valid slots
    truth: GroundTruth


def from_instances(preds: Instances, truth: GroundTruth, masks: bool) -> DetectionBatch:
    """Flatten a batch in pixels of the image files, padding included; ``masks`` asks to encode its masks."""
    images, slots = preds.valid.shape
    encoded = None
    if masks and preds.masks is not None:
        if not truth.sizes.all():
            raise ValueError("masks of Instances need the size (height, width) of every image in the targets")
        encoded = as_objects(
            [one for row, size in enumerate(truth.sizes.tolist()) for one in image_rle(preds, row, *size)]
        )
    return DetectionBatch(
        torch.arange(images, device=preds.valid.device).repeat_interleave(slots, output_size=images * slots),
        preds.boxes.flatten(0, 1),
        present(preds.labels, "labels").flatten(),
        present(preds.scores, "scores").flatten(),
        preds.valid.flatten(),
        encoded,
        truth,
    )


def from_dicts(preds: Sequence[ImageDict], truth: GroundTruth, masks: bool) -> DetectionBatch:
    """Join the detections of some images; ``masks`` asks for their masks, if they have any, run-length encoded.

    Raises ValueError if only some have masks.
    """
    parts = [_one_image(image, row, masks) for row, image in enumerate(preds)] or [_nothing()]
    images, boxes, labels, scores = (torch.cat(column) for column in list(zip(*parts, strict=True))[:4])
    encoded = [part[4] for part in parts]
    valid = torch.ones_like(images, dtype=torch.bool)
    return DetectionBatch(images, boxes, labels, scores, valid, _join_masks(encoded, range(len(encoded)), truth), truth)


def _one_image(
    image: ImageDict, row: int, masks: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, NDArray[np.object_] | None]:
    scores = torch.as_tensor(image["scores"]).flatten()
    labels = torch.as_tensor(image["labels"], device=scores.device).flatten()
    rle = encode(image["masks"], image.get("size")) if "masks" in image and (masks or "boxes" not in image) else None
    boxes = torch.as_tensor(boxes_around(rle) if rle is not None and "boxes" not in image else image["boxes"])
    boxes = boxes.reshape(-1, 4).to(scores.device)
    if not len(scores) == len(labels) == len(boxes) == (len(scores) if rle is None else len(rle)):
        raise ValueError("boxes, scores, labels and masks of an image must be as many")
    encoded = counts_of(rle) if masks and rle is not None else None
    return torch.full_like(labels, row, dtype=torch.int64), boxes, labels, scores, encoded


def _nothing() -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
    empty = torch.zeros(0)
    return empty.long(), empty.view(0, 4), empty.long(), empty, None


def _join_masks(
    masks: Sequence[NDArray[np.object_] | None], first_images: Sequence[int], truth: GroundTruth
) -> NDArray[np.object_] | None:
    """Concatenate masks; None if there are none at all.

    ``first_images`` are the positions in ``truth`` of the first image of each part. Raises ValueError, naming an image,
    if only some have masks.
    """
    present_masks = [part for part in masks if part is not None]
    if not present_masks:
        return None
    for part, image in zip(masks, first_images, strict=True):
        if part is None:
            names = truth.image_index if truth.image_ids is None else truth.image_ids
            name = image if names is None else names[image]
            raise ValueError(f"image {name}: its predictions have no masks, but those of other images do")
    return np.concatenate(present_masks)


def merge(batches: Sequence[DetectionBatch]) -> DetectionBatch:
    """Join batches into one without padding, on the CPU. Raises ValueError, naming one, if some images lack masks."""
    batches = [batch for batch in batches if len(batch.truth.sizes)] or [from_dicts([], concatenate([]), False)]
    starts = offsets_of([len(batch.truth.sizes) for batch in batches]).tolist()
    # One selection for the whole data set: each one waits for the device.
    valid = torch.cat([batch.valid for batch in batches])

    def join(columns: Iterable[Tensor], dtype: torch.dtype) -> Tensor:
        return torch.cat(list(columns))[valid].cpu().to(dtype)

    truth = concatenate([batch.truth for batch in batches])
    images = join((batch.images + start for batch, start in zip(batches, starts, strict=False)), torch.int64)
    return DetectionBatch(
        images,
        join((batch.boxes for batch in batches), torch.float64),
        join((batch.labels for batch in batches), torch.int64),
        join((batch.scores for batch in batches), torch.float64),
        torch.ones_like(images, dtype=torch.bool),
        _join_masks([batch.masks for batch in batches], starts[:-1], truth),
        truth,
    )


def detections_of(batch: DetectionBatch) -> Detections:
    """The columns of a merged batch as arrays."""
    columns = (batch.images, batch.boxes, batch.labels, batch.scores)
    return Detections(*(column.numpy() for column in columns), batch.masks)  # type: ignore[call-arg]


def image_rle(detections: Instances, image: int, height: int, width: int) -> list[bytes]:
    """Encode the masks of the detections of one image of a batch by run length, in pixels of its file."""
    valid = detections.valid[image]
    masks, boxes = (
        present(value, "masks")[image][valid].float().cpu().numpy() for value in (detections.masks, detections.boxes)
    )
    return list(box_masks_to_rle(masks, boxes, height, width))


def present(column: Tensor | None, name: str) -> Tensor:
    """Raise ValueError for a column that detections must have."""
    if column is None:
        raise ValueError(f"detections have no {name}")
    return column
