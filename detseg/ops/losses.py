"""Losses of semantic segmentation. Ignored pixels count neither in the sum nor in the number of elements."""

from __future__ import annotations

import torch
from torch import Tensor

from detseg.ops.boxes import as_float
from detseg.structures import IGNORE_INDEX


def semantic_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Compute the mean cross entropy of pixels: ``logits`` (B, K, H, W), ``labels`` (B, H, W) 0..K-1 or IGNORE_INDEX.

    ``weights`` (K,) of the classes. Zero if all pixels are ignored.
    """
    valid, entropy = labels != IGNORE_INDEX, _entropy(logits, labels)
    if weights is None:
        return entropy.sum() / valid.sum().clamp(min=1)
    each = torch.where(valid, weights.to(entropy)[torch.where(valid, labels, 0)], 0)
    total = each.sum()
    return (each * entropy).sum() / torch.where(total > 0, total, 1)


def focal_loss(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """Compute the focal loss: the mean of (1 - p) ** gamma times the cross entropy, p of the true class.

    Shapes as in ``semantic_loss``. Lin et al. 2017 (arXiv:1708.02002), equation 4, over a softmax; ``gamma`` is 0 or at
    least 1. Zero if all pixels are ignored.
    """
    entropy = _entropy(logits, labels)
    return ((1 - torch.exp(-entropy)) ** gamma * entropy).sum() / (labels != IGNORE_INDEX).sum().clamp(min=1)


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute one minus the Dice coefficient over the whole batch, averaged over the classes present in the labels.

    Shapes as in ``semantic_loss``. Milletari et al. 2016 (arXiv:1606.04797), section 3, for each class. Zero if all
    pixels are ignored.
    """
    valid = (labels != IGNORE_INDEX)[:, None]
    probabilities = torch.where(valid, as_float(logits).softmax(dim=1), 0)
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    truth = (labels[:, None] == classes).to(probabilities.dtype)
    intersection, sizes = (probabilities * truth).sum(dim=(0, 2, 3)), truth.sum(dim=(0, 2, 3))
    dice = 2 * intersection / ((probabilities**2).sum(dim=(0, 2, 3)) + sizes).clamp(min=1)
    present = sizes > 0
    return torch.where(present, 1 - dice, 0).sum() / present.sum().clamp(min=1)


def _entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross entropy of each pixel (B, H, W), 0 where ignored."""
    # F.cross_entropy of maps has no deterministic form on CUDA.
    valid = labels != IGNORE_INDEX
    chosen = as_float(logits).log_softmax(dim=1).gather(1, torch.where(valid, labels, 0)[:, None])
    return torch.where(valid, -chosen[:, 0], 0)


def median_frequency_weights(counts: Tensor) -> Tensor:
    """Compute class weights (K,) for ``semantic_loss`` from the pixels of each class in each image, ``counts`` (I, K).

    Eigen & Fergus 2015 (arXiv:1411.4734): the median frequency of the classes over that of the class, which is its
    fraction of the pixels of the images that contain it. A class that no image contains has the weight 1.
    """
    counts = counts.to(torch.float64)
    present = counts > 0
    frequencies = counts.sum(dim=0) / (counts.sum(dim=1, keepdim=True) * present).sum(dim=0).clamp(min=1)
    used = frequencies > 0
    median = torch.quantile(frequencies[used], 0.5) if used.any() else frequencies.new_ones(())
    return torch.where(used, median / torch.where(used, frequencies, 1), 1).float()
