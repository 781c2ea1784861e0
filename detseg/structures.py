"""The types that flow through the package: one sample, a batch of samples, and the objects in them.

Shape letters, here and everywhere else: B images, N objects (padded), A anchors, R regions, K foreground classes,
C channels, H and W pixels of the padded network input, h and w pixels of one image inside it.

All boxes are ``(x1, y1, x2, y2)`` in continuous pixel coordinates: a box that covers the first pixel alone is
``(0, 0, 1, 1)``. Labels count the foreground classes from 0 to K-1; background exists only in the box head's softmax.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

STRIDE = 32  # of the coarsest map of a backbone: sizes that are no multiple of it would be padded once more there
IGNORE_INDEX = 255  # in a map of labels: a pixel that belongs to no class, neither learnt nor measured


class Instances(NamedTuple):
    """The objects of a whole batch, padded to the same number in every image.

    Ground truth, proposals, sampled regions and detections are all of this type. Where ``valid`` is false the slot is
    padding: its other values mean nothing and must be read by nobody.
    """

    boxes: Tensor  # (B, N, 4) float32, pixels of the network input
    valid: Tensor  # (B, N) bool
    labels: Tensor | None = None  # (B, N) int64, 0..K-1
    scores: Tensor | None = None  # (B, N) float32
    masks: Tensor | None = None  # (B, N, ...) as the model that reads them states


class Sample(NamedTuple):
    """One image and its objects, as a dataset gives them, before they are collated."""

    image: Tensor  # (3, h, w) uint8, RGB
    boxes: Tensor  # (n, 4) float32, pixels of ``image``
    labels: Tensor  # (n,) int64
    image_index: int  # row of the image in its annotations
    original_size: tuple[int, int]  # height and width of the image file
    masks: Tensor | None = None  # (n, S, S) uint8, over the boxes, see ops.masks
    proposals: Tensor | None = None  # (m, 4) float32, pixels of ``image``, likeliest first
    semantic: Tensor | None = None  # (h, w) uint8 class of each pixel, or VOID


class Batch(NamedTuple):
    """Samples of similar shape, padded at the right and the bottom to one size."""

    images: Tensor  # (B, 3, H, W) uint8, RGB; zero outside ``image_sizes``
    image_sizes: Tensor  # (B, 2) int64, height and width of each image inside the padding
    targets: Instances  # ground truth to learn from (no crowds, no difficult objects)
    image_index: Tensor  # (B,) int64, row of each image in its annotations
    original_sizes: Tensor  # (B, 2) int64, height and width of each image file
    proposals: Instances | None = None  # boxes from a file, for models that do not make their own
    semantic: Tensor | None = None  # (B, H, W) int64 class of each pixel, or VOID


def rescale(instances: Instances, sizes: Tensor, original_sizes: Tensor) -> Instances:
    """Map boxes from pixels of the network input to pixels of the image files.

    ``sizes`` and ``original_sizes`` are (B, 2), height and width, as in ``Batch``.
    """
    scale = original_sizes.to(torch.float32) / sizes.to(torch.float32)
    return instances._replace(boxes=instances.boxes * scale.flip(1).repeat(1, 2)[:, None])


def drop_padding(instances: Instances) -> Instances:
    """On a CPU, drop the slots that are padding in every image, if they come last; elsewhere, change nothing.

    Work on padding is cheap on a GPU, where asking for the number of objects would make the host wait for the device.
    """
    if instances.boxes.device.type != "cpu" or torch.compiler.is_compiling():
        return instances
    used = instances.valid.any(dim=0).nonzero()
    count = int(used[-1]) + 1 if len(used) else 1
    boxes, valid, *optional = instances
    return Instances(
        boxes[:, :count], valid[:, :count], *(None if value is None else value[:, :count] for value in optional)
    )
