"""Sampling of the anchors or regions that a loss is computed from (Fast R-CNN, section 2.3)."""

from __future__ import annotations

from torch import Tensor

from detseg.configurable import Configurable
from detseg.modules.part import check_ranges
from detseg.ops.sampling import sample


class BalancedSampler(Configurable):
    """Draw ``batch_size_per_image`` candidates at random, at most ``positive_fraction`` of them positive.

    Missing positives are made up by negatives. A subclass may choose otherwise, within the same numbers.
    """

    def __init__(self, batch_size_per_image: int, positive_fraction: float) -> None:
        check_ranges({"batch_size_per_image": batch_size_per_image}, {"positive_fraction": positive_fraction})
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction

    @property
    def max_positives(self) -> int:
        """The largest number of positives of an image."""
        return int(self.batch_size_per_image * self.positive_fraction)

    def __call__(self, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """Sample among A candidates, which ``positive`` and ``negative`` (B, A) bool classify.

        Returns indices (B, S) int64, positives first, and valid (B, S): S is at most ``batch_size_per_image``, and
        slots are empty where there are too few candidates.
        """
        return sample(positive, negative, self.batch_size_per_image, self.positive_fraction)
