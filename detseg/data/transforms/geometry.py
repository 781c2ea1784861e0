"""Move, resize, crop and flip an image with everything that is labelled on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from detseg.ops.masks import box_masks
from detseg.ops.rle import paste_mask
from detseg.resizing import resize

NO_BOXES = np.zeros((0, 4), dtype=np.float32)
NO_LABELS = np.zeros(0, dtype=np.int64)


class ImageSample(NamedTuple):
    """An image with its labels: objects for detection, or the class of each pixel for segmentation."""

    image: NDArray[np.uint8]  # (h, w, 3) RGB
    boxes: NDArray[np.float32] = NO_BOXES  # (n, 4) xyxy, pixels of ``image``
    labels: NDArray[np.int64] = NO_LABELS  # (n,)
    masks: NDArray[np.uint8] | None = None  # (n, S, S) box masks, see ops.masks
    proposals: NDArray[np.float32] | None = None  # (m, 4) xyxy, pixels of ``image``
    semantic: NDArray[np.uint8] | None = None  # (h, w) class of each pixel, or IGNORE_INDEX
    frame: tuple[int, int] | None = None  # height and width that mixing fills; None: those of ``image``


def scale(sample: ImageSample, height: int, width: int, interpolation: int = cv2.INTER_LINEAR) -> ImageSample:
    """Resize a sample to a height and width. Each pixel of a semantic map takes the class of the nearest one."""
    old = sample.image.shape[:2]
    if (height, width) == old:
        return sample
    factors = np.array([width / old[1], height / old[0]] * 2, dtype=np.float32)
    semantic = sample.semantic
    if semantic is not None:
        # INTER_NEAREST is half a pixel off the image: it takes the corners of pixels for their centres.
        semantic = resize(semantic, height, width, cv2.INTER_NEAREST_EXACT)
    image = resize(sample.image, height, width, interpolation)
    return map_boxes(sample, lambda boxes: boxes * factors)._replace(image=image, semantic=semantic)


def hflip(sample: ImageSample) -> ImageSample:
    """Flip a sample horizontally."""
    width = np.float32(sample.image.shape[1])

    def flip(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        x1, y1, x2, y2 = boxes.T
        return np.stack([width - x2, y1, width - x1, y2], axis=1)

    return map_boxes(sample, flip)._replace(
        image=cv2.flip(sample.image, 1).astype(np.uint8, copy=False),
        masks=None if sample.masks is None else sample.masks[:, :, ::-1],
        semantic=None if sample.semantic is None else sample.semantic[:, ::-1],
    )


def crop(sample: ImageSample, left: int, top: int, right: int, bottom: int) -> ImageSample:
    """Crop a sample to a window, as far as the image reaches. Objects are cut at its edges or dropped."""
    height, width = sample.image.shape[:2]
    right, bottom = min(right, width), min(bottom, height)
    if (left, top, right, bottom) == (0, 0, width, height):
        return sample
    corner = np.array([left, top] * 2, dtype=np.float32)
    boxes = (sample.boxes.clip(corner, np.array([right, bottom] * 2, dtype=np.float32)) - corner).astype(np.float32)
    visible = {}
    if sample.masks is not None:
        inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        partly = inside & np.any(boxes != sample.boxes - corner, axis=1)
        visible = {
            row: full_mask(sample, row, height, width)[top:bottom, left:right]
            for row in np.flatnonzero(partly).tolist()
        }
    window = (slice(top, bottom), slice(left, right))
    cropped = sample._replace(
        image=sample.image[window],
        boxes=boxes,
        proposals=None if sample.proposals is None else sample.proposals - corner,
        semantic=None if sample.semantic is None else sample.semantic[window],
    )
    return recompute_boxes(cropped, visible)


def map_boxes(sample: ImageSample, function: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> ImageSample:
    """Apply a function to the boxes and the proposals (n, 4); masks move with their boxes."""
    proposals = None if sample.proposals is None else function(sample.proposals)
    return sample._replace(boxes=function(sample.boxes), proposals=proposals)


def clip_proposals(sample: ImageSample) -> ImageSample:
    """Clip the proposals to the image, and drop those outside it."""
    if sample.proposals is None:
        return sample
    height, width = sample.image.shape[:2]
    clipped = sample.proposals.clip(0, np.array([width, height] * 2, dtype=np.float32))
    return sample._replace(proposals=clipped[(clipped[:, 2:] > clipped[:, :2]).all(axis=1)])


def mask_bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return the tightest box (xyxy) of a mask (h, w); an empty mask has one without area."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0)


def full_mask(sample: ImageSample, row: int, height: int, width: int) -> NDArray[np.bool_]:
    """Paste the mask of an object into an image of a height and width."""
    assert sample.masks is not None
    probabilities = sample.masks[row].astype(np.float32) / 255
    return paste_mask(probabilities, sample.boxes[row], height, width).full_mask(height, width)


def recompute_boxes(sample: ImageSample, masks: Mapping[int, NDArray[np.bool_]]) -> ImageSample:
    """Give some objects the masks (h, w) of their visible parts and the boxes of these; drop boxes without area."""
    boxes, box_grids = sample.boxes.copy(), sample.masks
    for row, mask in masks.items():
        boxes[row] = mask_bounds(mask)
    kept: NDArray[np.bool_] = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
    if box_grids is not None:
        box_grids = box_grids.copy()
        rows = [row for row in masks if kept[row]]
        visible = (masks[row] for row in rows)
        box_grids[rows] = box_masks(visible, torch.from_numpy(boxes[rows]), box_grids.shape[1]).numpy()
        box_grids = box_grids[kept]
    return sample._replace(boxes=boxes[kept], labels=sample.labels[kept], masks=box_grids)


def concat(samples: Sequence[ImageSample]) -> ImageSample:
    """Return the first sample with the objects of all."""
    masks = [sample.masks for sample in samples if sample.masks is not None]
    return samples[0]._replace(
        boxes=np.concatenate([sample.boxes for sample in samples]),
        labels=np.concatenate([sample.labels for sample in samples]),
        masks=np.concatenate(masks) if masks else None,
    )


def pad_to(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Pad an image (h, w, 3) with black at the bottom and the right."""
    padded = np.zeros((height, width, 3), dtype=np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded
