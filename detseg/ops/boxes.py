"""Boxes ``(x1, y1, x2, y2)``: geometry, regression deltas and their loss, and non-maximum suppression.

Every function takes any number of leading dimensions, unless it names them, integers and half precision (computed in
float32) and empty tensors. A box without area gives finite numbers everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Without a bound, exp(dw) of an untrained network overflows; 1000/16 is Detectron's bound.
MAX_LOG_SCALE = math.log(1000 / 16)

TINY = 1e-6  # pixels; below any real box, so that its logarithm exists
BETA = 1 / 9  # transition point of smooth L1, as in torchvision and in py-faster-rcnn's RPN (sigma = 3)
UNWEIGHTED = (1.0, 1.0, 1.0, 1.0)


def as_float(tensor: Tensor) -> Tensor:
    """Convert to single precision at least: half precision would move a box by whole pixels."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def constant(values: Sequence[float], like: Tensor) -> Tensor:
    """Make a tensor (n,) with the type and device of ``like``, without a copy that makes the host wait."""
    return torch.stack([torch.full((), value, dtype=like.dtype, device=like.device) for value in values])


def take(values: Tensor, index: Tensor) -> Tensor:
    """Select the ``values`` (B, N, ...) of each image at ``index`` (B, S).

    ``take_along_dim`` does so too, but its comparison of shapes makes ``torch.compile`` fix the number of objects.
    """
    index = index.reshape(*index.shape, *(1 for _ in values.shape[2:]))
    return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert centre and size to two corners, (..., 4) to (..., 4)."""
    boxes = as_float(boxes)
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert two corners to centre and size, (..., 4) to (..., 4)."""
    boxes = as_float(boxes)
    corner, opposite = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(corner + opposite) / 2, opposite - corner], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """Compute areas, (..., 4) to (...); a box with swapped corners has none."""
    width, height = (as_float(boxes)[..., 2:] - as_float(boxes)[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def clip(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Clip boxes (B, N, 4) to images of ``image_sizes`` (B, 2), height and width."""
    limit = image_sizes.flip(-1).repeat(1, 2)[:, None].to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limit)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Compute the IoU of every pair: (..., N, 4) and (..., M, 4) to (..., N, M); 0 where both boxes have no area."""
    a, b = as_float(a)[..., :, None, :], as_float(b)[..., None, :, :]
    width, height = (
        (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).unbind(-1)
    )
    intersection = width * height
    union = area(a) + area(b) - intersection
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def encode(boxes: Tensor, references: Tensor, weights: Sequence[float] = UNWEIGHTED) -> Tensor:
    """Compute the deltas that turn ``references`` (anchors or proposals) into ``boxes``; all (..., 4).

    R-CNN, appendix C: offsets of the centre in units of the reference's size, and logarithms of the scale, each times
    its weight, which brings the standard deviation of the targets near 1.
    """
    boxes, references = xyxy_to_cxcywh(boxes), xyxy_to_cxcywh(references)
    size, reference_size = boxes[..., 2:].clamp(min=TINY), references[..., 2:].clamp(min=TINY)
    offset = (boxes[..., :2] - references[..., :2]) / reference_size
    deltas = torch.cat([offset, torch.log(size / reference_size)], dim=-1)
    return deltas * constant(weights, deltas)


def decode(deltas: Tensor, references: Tensor, weights: Sequence[float] = UNWEIGHTED) -> Tensor:
    """Apply ``deltas`` to ``references``, the inverse of ``encode``; all (..., 4)."""
    deltas = as_float(deltas)
    deltas = deltas / constant(weights, deltas)
    references = xyxy_to_cxcywh(references)
    centre = references[..., :2] + deltas[..., :2] * references[..., 2:]
    size = references[..., 2:] * deltas[..., 2:].clamp(max=MAX_LOG_SCALE).exp()
    return cxcywh_to_xyxy(torch.cat([centre, size], dim=-1))


def delta_loss(deltas: Tensor, targets: Tensor, positive: Tensor, count: Tensor, beta: float = BETA) -> Tensor:
    """Sum smooth L1 (Fast R-CNN, equation 3) over the positive slots and divide by ``count``, all samples.

    ``deltas`` and ``targets`` (..., 4), ``positive`` (...), ``count`` a scalar. ``beta`` is the transition point
    between parabola and line.
    """
    # Padding may contain anything, and a loss that is masked afterwards would have the gradient 0 * NaN.
    targets = torch.where(positive[..., None], targets, 0)
    loss = F.smooth_l1_loss(as_float(deltas), targets, beta=beta, reduction="none").sum(dim=-1)
    return torch.where(positive, loss, 0).sum() / count.clamp(min=1)


@torch.library.custom_op("detseg::nms", mutates_args=())
def nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Keep the boxes that no better kept box of their group overlaps by more than the IoU ``threshold``.

    ``boxes`` (B, N, 4), ``scores`` (B, N), ``groups`` (B, N) int64 (class or pyramid level), ``valid`` (B, N) bool.

    Returns indices (B, limit) int64 by falling score, and valid (B, limit); empty slots hold index 0. The number of
    remaining boxes depends on the data, so the loop is an operator of its own: ``torch.compile`` sees fixed shapes and
    does not look inside.
    """
    from torchvision.ops import batched_nms  # slow to import, and the processes that load data need none

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
def fake_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Make tensors like the result of ``nms``, for compilers."""
    shape = (boxes.shape[0], limit)
    return boxes.new_empty(shape, dtype=torch.int64), boxes.new_empty(shape, dtype=torch.bool)
