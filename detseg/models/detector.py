"""What every detector is."""

from __future__ import annotations

from torch import Tensor, nn

from detseg.recipe import Recipe
from detseg.structures import Batch, Instances


class Detector(nn.Module, Recipe):
    """Finds objects of ``num_classes`` classes. What it returns does not depend on whether it is training."""

    num_classes: int
    needs_proposals = False  # whether proposals must come with the images
    needs_masks = False  # whether it learns from masks, and finds them

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Every loss of a batch by name; the total is their sum."""
        raise NotImplementedError

    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Instances]:
        """What ``loss`` and ``forward`` say of a batch; a network that computes features for both does so once."""
        return self.loss(batch), self(batch.images, batch.sizes, batch.proposals)

    def forward(self, images: Tensor, sizes: Tensor, proposals: Instances | None = None) -> Instances:
        """Detections, best first, in pixels of the network input.

        ``images`` (B, 3, H, W) uint8, ``sizes`` (B, 2) height and width inside the padding, ``proposals`` for models
        that do not make their own.
        """
        raise NotImplementedError
