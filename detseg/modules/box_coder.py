"""Box regression targets (R-CNN, appendix C)."""

from __future__ import annotations

from torch import Tensor

from detseg.configurable import Configurable
from detseg.ops import boxes as box_ops


class BoxCoder(Configurable):
    """Encode boxes as deltas from reference boxes, and decode them again.

    Offsets of the centre are in units of the reference's size, scales are logarithms; each is multiplied by its
    ``delta_weights``, which bring the standard deviation of the targets near 1.
    """

    def __init__(self, delta_weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)) -> None:
        self.delta_weights = delta_weights

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Encode ``boxes`` relative to ``references``, anchors or regions; all (..., 4)."""
        return box_ops.encode(boxes, references, self.delta_weights)

    def decode(self, deltas: Tensor, references: Tensor) -> Tensor:
        """Decode ``deltas`` of ``references`` to boxes; all (..., 4)."""
        return box_ops.decode(deltas, references, self.delta_weights)
