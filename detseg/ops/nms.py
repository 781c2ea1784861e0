"""Non-maximum suppression with a result of fixed size.

The number of remaining boxes depends on the data. The loop is therefore registered as an operator: ``torch.compile``
sees fixed shapes and does not look inside.
"""

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from detseg.ops.boxes import as_float


@torch.library.custom_op("detseg::nms", mutates_args=())
def nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Keep the boxes that no better kept box of their group overlaps by more than the IoU ``threshold``.

    ``boxes`` (B, N, 4), ``scores`` (B, N), ``groups`` (B, N) int64 (class or pyramid level), ``valid`` (B, N) bool.

    Returns indices (B, limit) int64 by falling score, and valid (B, limit); empty slots hold index 0.
    """
    indices = torch.zeros(len(boxes), limit, dtype=torch.int64, device=boxes.device)
    kept = torch.zeros(len(boxes), limit, dtype=torch.bool, device=boxes.device)
    for image in range(len(boxes)):
        candidates = valid[image].nonzero()[:, 0]
        remaining = batched_nms(
            as_float(boxes[image, candidates]),
            as_float(scores[image, candidates]),
            groups[image, candidates],
            threshold,
        )[:limit]
        indices[image, : len(remaining)] = candidates[remaining]
        kept[image, : len(remaining)] = True
    return indices, kept


@nms.register_fake
def _(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    shape = (boxes.shape[0], limit)
    return boxes.new_empty(shape, dtype=torch.int64), boxes.new_empty(shape, dtype=torch.bool)
