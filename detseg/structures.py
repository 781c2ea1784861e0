"""The types that flow through the package: one sample, a batch of samples, and the objects in them.

Shape letters, here and everywhere else: B images, N objects (padded), A anchors, R regions, K foreground classes,
C channels, H and W pixels of the padded network input, h and w pixels of one image inside it.

All boxes are ``(x1, y1, x2, y2)`` in continuous pixel coordinates: a box that covers the first pixel alone is
``(0, 0, 1, 1)``. Labels count the foreground classes from 0 to K-1; background exists only in the box head's softmax.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from detseg.constants import IGNORE_INDEX as IGNORE_INDEX
from detseg.constants import STRIDE as STRIDE

T = TypeVar("T")


class Instances(NamedTuple):
    """The objects of a whole batch, padded to the same number in every image.

    Ground truth, proposals, sampled regions and detections have this type. Slots with ``valid=False`` are padding;
    ignore their values.
    """

    boxes: Tensor  # (B, N, 4) float32, pixels of the network input
    valid: Tensor  # (B, N) bool
    labels: Tensor | None = None  # (B, N) int64, 0..K-1
    scores: Tensor | None = None  # (B, N) float32
    masks: Tensor | None = None  # (B, N, S, S), box masks uint8 of targets (see ops.masks) or probabilities


class Sample(NamedTuple):
    """One image and its objects, as a dataset returns them."""

    image: Tensor  # (3, h, w) uint8, RGB
    boxes: Tensor  # (n, 4) float32, pixels of ``image``
    labels: Tensor  # (n,) int64
    image_index: int  # row of the image in its annotations
    original_size: tuple[int, int]  # height and width of the image file
    masks: Tensor | None = None  # (n, S, S) uint8 box masks, see ops.masks
    proposals: Tensor | None = None  # (m, 4) float32, pixels of ``image``, best first
    semantic: Tensor | None = None  # (h, w) uint8 class of each pixel, or IGNORE_INDEX
    seed: int = 0  # of what a training step draws at random for this image


class Batch(NamedTuple):
    """Samples of similar shape, padded at the right and the bottom to one size."""

    images: Tensor  # (B, 3, H, W) uint8, RGB; zero outside ``image_sizes``
    image_sizes: Tensor  # (B, 2) int64, height and width of each image inside the padding
    targets: Instances  # ground truth for training, without crowds and difficult objects
    image_index: Tensor  # (B,) int64, row of each image in its annotations
    original_sizes: Tensor  # (B, 2) int64, height and width of each image file
    proposals: Instances | None = None  # for models that do not propose regions themselves
    semantic: Tensor | None = None  # (B, H, W) int64 class of each pixel, or IGNORE_INDEX
    seeds: Tensor | None = None  # (B,) int64, of what a step draws at random for each image


def rescale(instances: Instances, image_sizes: Tensor, original_sizes: Tensor) -> Instances:
    """Map boxes from pixels of the network input to pixels of the image files.

    ``image_sizes`` and ``original_sizes`` are (B, 2), height and width, as in ``Batch``.
    """
    scale = original_sizes.to(torch.float32) / image_sizes.to(torch.float32)
    return instances._replace(boxes=instances.boxes * scale.flip(1).repeat(1, 2)[:, None])


def to_device(value: T, device: torch.device) -> T:
    """Move all tensors of a batch, or of instances, to a device."""

    def moved(item: Any) -> Any:
        if isinstance(item, tuple):
            return type(item)._make(map(moved, item))  # type: ignore[attr-defined]
        return item.to(device) if isinstance(item, Tensor) else item

    return moved(value)  # type: ignore[no-any-return]


def drop_padding(instances: Instances) -> Instances:
    """Drop trailing slots that are padding in every image, on a CPU; on other devices, change nothing.

    Work on padding is cheap on a GPU, where reading the number of objects would make the host wait for the device.
    """
    if instances.boxes.device.type != "cpu" or torch.compiler.is_compiling():
        return instances
    occupied = instances.valid.any(dim=0).nonzero()
    count = int(occupied[-1]) + 1 if len(occupied) else 1
    boxes, valid, *optional = instances
    return Instances(
        boxes[:, :count], valid[:, :count], *(None if value is None else value[:, :count] for value in optional)
    )
