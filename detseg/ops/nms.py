"""Non-maximum suppression with a result of fixed size.

The number of survivors depends on the data, so this is the one place where the host may have to ask the device: where
there is no Triton, which comes with PyTorch for GPUs on Linux. It is registered as an operator of its own:
``torch.compile`` sees fixed shapes and does not look inside.
"""

from importlib.util import find_spec

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from detseg.ops.boxes import as_float


@torch.library.custom_op("detseg::suppress", mutates_args=())
def suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Indices of the boxes that no better box of their group overlaps by more than ``threshold``.

    ``boxes`` (B, N, 4), ``scores`` (B, N), ``groups`` (B, N) int64 (class or pyramid level), ``valid`` (B, N) bool.

    Returns indices (B, limit) int64 by falling score, and valid (B, limit); empty slots hold index 0.
    """
    if boxes.is_cuda and find_spec("triton"):
        return _without_the_host(boxes, scores, groups, valid, threshold, limit)
    indices = torch.zeros(len(boxes), limit, dtype=torch.int64, device=boxes.device)
    kept = torch.zeros(len(boxes), limit, dtype=torch.bool, device=boxes.device)
    for image in range(len(boxes)):
        candidates = valid[image].nonzero()[:, 0]
        survivors = batched_nms(
            as_float(boxes[image, candidates]),
            as_float(scores[image, candidates]),
            groups[image, candidates],
            threshold,
        )[:limit]
        indices[image, : len(survivors)] = candidates[survivors]
        kept[image, : len(survivors)] = True
    return indices, kept


def _without_the_host(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    from detseg.kernels import triton_nms as greedy

    left = torch.where(valid, as_float(scores), -torch.inf)
    return greedy.suppress(as_float(boxes), left, groups, threshold, limit)


@suppress.register_fake
def _(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    shape = (boxes.shape[0], limit)
    return boxes.new_empty(shape, dtype=torch.int64), boxes.new_empty(shape, dtype=torch.bool)
