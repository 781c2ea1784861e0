"""What every detector is."""

from __future__ import annotations

from torch import Tensor

from detseg.errors import DataError
from detseg.models.model import Model
from detseg.preprocessing import Preprocessing, ResizeConfig
from detseg.structures import Batch, Instances


class Detector(Model):
    """Finds objects of ``num_classes`` classes. What it returns does not depend on whether it is training."""

    preprocessing: Preprocessing = ResizeConfig()
    needs_proposals = False  # whether proposals must come with the images
    needs_masks = False  # whether it learns from masks, and finds them

    @property
    def complete(self) -> bool:
        """True unless a later stage of the training is missing, without which there are no detections."""
        return True

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Every loss of a batch by name; the total is their sum."""
        raise NotImplementedError

    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Instances]:
        """What ``loss`` and ``forward`` say of a batch; a network that computes features for both does so once."""
        return self.loss(batch), self(batch.images, batch.image_sizes, batch.proposals)

    def forward(self, images: Tensor, sizes: Tensor, proposals: Instances | None = None) -> Instances:
        """Detections, best first, in pixels of the network input.

        ``images`` (B, 3, H, W) uint8, ``sizes`` (B, 2) height and width inside the padding, ``proposals`` for models
        that do not make their own.
        """
        raise NotImplementedError


def check(counts: dict[str, int], shares: dict[str, float]) -> None:
    """Raise ValueError, naming it, for a count that is not positive and for a share or an IoU that is not in [0, 1]."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}, and must be at least 1")
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}, and must be between 0 and 1")


def require_proposals(proposals: Instances | None, name: str) -> Instances:
    """The proposals that came with the images, with room for one at least. Raises DataError if there are none."""
    if proposals is None:
        raise DataError(
            f"{name} needs proposals, and none came with the images: make them by "
            "`python tools/propose.py --data ... --method selective_search`, and name their folder as data.proposals"
        )
    if not proposals.valid.shape[1]:  # of no image
        images = len(proposals.valid)
        return Instances(proposals.boxes.new_zeros(images, 1, 4), proposals.valid.new_zeros(images, 1))
    return proposals
