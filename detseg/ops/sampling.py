"""A fixed number of training examples, drawn at random, without asking the device how many there are."""

from __future__ import annotations

import torch
from torch import Tensor


def sample(positive: Tensor, negative: Tensor, count: int, fraction: float) -> tuple[Tensor, Tensor]:
    """Draw ``count`` candidates an image, at most ``fraction`` of ``count`` positive, the rest negative.

    ``positive`` and ``negative`` (B, A) bool say which candidates may be drawn as which. Missing positives are made up
    by negatives (Fast R-CNN, section 2.3); where both run out, slots stay empty.

    Returns indices (B, min(count, A)) int64, the drawn positives first, and valid, of the same shape.
    """
    keys = torch.rand(positive.shape, device=positive.device)
    # The quota is a share of what is asked for, as in torchvision, though there may be fewer candidates than that.
    quota = min(int(count * fraction), keys.shape[1])
    count = min(count, keys.shape[1])
    drawn = torch.zeros_like(positive)
    if quota > 0:
        # The quota-th largest key among the positives (or -1, where there are fewer) is the bar to be drawn.
        bar = torch.where(positive, keys, -1.0).topk(quota, dim=1).values[:, -1:]
        drawn = positive & (keys >= bar)
    order = torch.where(drawn, 1 + keys, torch.where(negative, keys, -1.0))
    value, indices = order.topk(count, dim=1)
    return indices, value >= 0
