"""Random sampling of a fixed number of training examples, without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor


def sample(positive: Tensor, negative: Tensor, num_samples: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Draw ``num_samples`` candidates an image, at most ``positive_fraction`` of them positive, the rest negative.

    ``positive`` and ``negative`` (B, A) bool mark the candidates of either kind. Negatives replace missing positives
    (Fast R-CNN, section 2.3); where both run out, slots stay empty.

    Returns indices (B, min(num_samples, A)) int64, the drawn positives first, and valid, of the same shape.
    """
    keys = torch.rand(positive.shape, device=positive.device)
    # The quota is a fraction of the requested number, as in torchvision, even if there are fewer candidates.
    quota = min(int(num_samples * positive_fraction), keys.shape[1])
    num_samples = min(num_samples, keys.shape[1])
    drawn = torch.zeros_like(positive)
    if quota > 0:
        # The quota-th largest key among the positives, or -1 if there are fewer.
        threshold = torch.where(positive, keys, -1.0).topk(quota, dim=1).values[:, -1:]
        drawn = positive & (keys >= threshold)
    keys = torch.where(drawn, 1 + keys, torch.where(negative, keys, -1.0))
    value, indices = keys.topk(num_samples, dim=1)
    return indices, value >= 0
