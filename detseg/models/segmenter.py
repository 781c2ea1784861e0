"""Base class of the models for semantic segmentation."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.models.model import Model
from detseg.ops.boxes import as_float
from detseg.ops.losses import dice_loss, focal_loss, semantic_loss
from detseg.structures import STRIDE, Batch

Criterion = Literal["cross_entropy", "focal", "dice"]


class Segmenter(Model):
    """Classify each pixel into ``num_classes`` classes, including a background class if the data has one.

    ``criterion`` is the loss. Cross entropy weights pixels by ``class_weights`` (K,), ones unless the task sets them.
    """

    class_weights: Tensor
    stride: int | None = None  # of the finest map that is scored

    def __init__(self, num_classes: int, criterion: Criterion = "cross_entropy") -> None:
        super().__init__()
        self.num_classes = num_classes
        self.criterion = criterion
        self.register_buffer("class_weights", torch.ones(num_classes))

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> Tensor:
        """Compute logits (B, K, H, W) of images (B, 3, H, W), uint8, of ``image_sizes`` (B, 2) inside their padding."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Compute every loss of a batch by name; the total is their sum."""
        return self.validate(batch)[0]

    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the results of ``loss`` and ``forward`` of a batch from the same features."""
        logits = self(batch.images, batch.image_sizes)
        return {"loss_pixels": self.pixel_loss(logits, batch)}, logits

    def pixel_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the ``criterion`` of logits (B, K, H, W); zero if all pixels are ignored."""
        assert batch.semantic is not None
        if self.criterion == "focal":
            return focal_loss(logits, batch.semantic)
        if self.criterion == "dice":
            return dice_loss(logits, batch.semantic)
        return semantic_loss(logits, batch.semantic, self.class_weights)


def pad(images: Tensor, image_sizes: Tensor | None, stride: int) -> tuple[Tensor, Tensor | None]:
    """Pad images (B, 3, H, W) at the right and the bottom to multiples of 32 and of ``stride``, the coarsest map's.

    Batches are padded to the same multiples, so an image gets the same logits alone as in a batch. Returns the images
    and their ``image_sizes`` (B, 2) inside the padding, None if nothing is padded.
    """
    height, width = images.shape[-2:]
    multiple = math.lcm(STRIDE, stride)
    right, bottom = -width % multiple, -height % multiple
    if not right and not bottom:
        return images, image_sizes
    if image_sizes is None:
        image_sizes = torch.tensor([height, width], device=images.device).expand(len(images), 2)
    return F.pad(images, (0, right, 0, bottom)), image_sizes


def upsample(scores: Tensor, images: Tensor) -> Tensor:
    """Resize scores (B, K, h, w) to the size of images (B, 3, H, W), in single precision at least.

    Half precision would round neighbouring pixels to the same score, and classes would tie.
    """
    return F.interpolate(as_float(scores), size=images.shape[-2:], mode="bilinear", align_corners=False)
