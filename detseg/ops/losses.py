"""Losses over padded slots: slots that are not valid count neither in the sum nor in the number."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.ops.boxes import as_float

BETA = 1 / 9  # where smooth L1 turns from a parabola into a line, as in torchvision and py-faster-rcnn (sigma = 3)


def class_loss(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Mean cross entropy: ``logits`` (M, K + 1), ``labels`` (M,), ``valid`` (M,). Zero where nothing is valid."""
    loss = F.cross_entropy(as_float(logits), torch.where(valid, labels, 0), reduction="none")
    return torch.where(valid, loss, 0).sum() / valid.sum().clamp(min=1)


def objectness_loss(logits: Tensor, positive: Tensor, valid: Tensor) -> Tensor:
    """Mean binary cross entropy of the ``valid`` among ``logits``; all three are of one shape."""
    logits = as_float(logits)
    loss = F.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="none")
    return torch.where(valid, loss, 0).sum() / valid.sum().clamp(min=1)


def delta_loss(deltas: Tensor, targets: Tensor, positive: Tensor, count: Tensor, beta: float = BETA) -> Tensor:
    """Smooth L1 (Fast R-CNN, equation 3) summed over the positive slots and divided by ``count``, all samples.

    ``deltas`` and ``targets`` (..., 4), ``positive`` (...), ``count`` a scalar. ``beta`` is where the parabola ends.
    """
    # Padding may hold anything, and the gradient of a loss that was masked afterwards would still be 0 * NaN.
    targets = torch.where(positive[..., None], targets, 0)
    loss = F.smooth_l1_loss(as_float(deltas), targets, beta=beta, reduction="none").sum(dim=-1)
    return torch.where(positive, loss, 0).sum() / count.clamp(min=1)
