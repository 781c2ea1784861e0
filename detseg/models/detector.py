"""The interface of every detector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detseg.errors import DataError
from detseg.models.model import Model
from detseg.preprocessing import Preprocessing, ResizeConfig
from detseg.structures import Batch, Instances


class Detector(Model):
    """Find objects of ``num_classes`` foreground classes. Return types do not depend on ``training``.

    ``thresholds`` are the scores from which objects of each class are shown by default, if an evaluation chose them.
    """

    preprocessing: Preprocessing = ResizeConfig()
    needs_proposals = False  # True if proposals must come with the images
    needs_masks = False  # True if it learns from masks, and predicts them

    thresholds: tuple[float, ...] = ()  # (K,)

    def metadata(self) -> dict[str, Any]:
        return super().metadata() | ({"thresholds": list(self.thresholds)} if self.thresholds else {})

    def set_metadata(self, metadata: Mapping[str, Any]) -> None:
        super().set_metadata(metadata)
        self.thresholds = tuple(map(float, metadata.get("thresholds", ())))
        if len(self.thresholds) not in (0, self.num_classes):
            raise ValueError(f"{len(self.thresholds)} thresholds for {self.num_classes} classes")

    @property
    def complete(self) -> bool:
        """True unless a later stage of the training is missing, without which there are no detections."""
        return True

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Compute every loss of a batch by name; the total is their sum."""
        raise NotImplementedError

    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Instances]:
        """Compute ``loss`` and ``forward`` of a batch, with shared features computed once."""
        return self.loss(batch), self(batch.images, batch.image_sizes, batch.proposals)

    def forward(self, images: Tensor, image_sizes: Tensor, proposals: Instances | None = None) -> Instances:
        """Detect objects, best first, in pixels of the network input.

        ``images`` (B, 3, H, W) uint8, ``image_sizes`` (B, 2) height and width inside the padding, ``proposals`` for
        models that do not make their own.
        """
        raise NotImplementedError


def seeds_of(batch: Batch) -> Tensor:
    """Return the seeds (B,) of what is drawn for each image; of the global generator for a batch without any."""
    images = batch.image_index
    return torch.randint(2**31, images.shape, device=images.device) if batch.seeds is None else batch.seeds


def require_proposals(proposals: Instances | None, model: str) -> Instances:
    """Return the proposals that came with the images, at least one slot of them. Raises DataError if there are none."""
    if proposals is None:
        raise DataError(
            f"{model} needs proposals, and none came with the images: compute them with `detseg propose`, and "
            "pass their folder to the data as `proposals`"
        )
    if not proposals.valid.shape[1]:  # of no image
        images = len(proposals.valid)
        return Instances(proposals.boxes.new_zeros(images, 1, 4), proposals.valid.new_zeros(images, 1))
    return proposals
