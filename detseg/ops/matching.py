"""Assignment of anchors and proposals to ground truth."""

from __future__ import annotations

import torch
from torch import Tensor

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


def match(
    iou: Tensor,
    valid: Tensor,
    fg_iou_threshold: float,
    bg_iou_threshold: float,
    allow_low_quality_matches: bool,
) -> tuple[Tensor, Tensor]:
    """Match candidates to the ground truth that they overlap most (Faster R-CNN, section 3.1.2).

    ``iou`` (B, N, A) of N ground truths with A candidates; ``valid`` (B, N) marks the ground truths that exist. A
    candidate is positive at IoU >= ``fg_iou_threshold``, negative below ``bg_iou_threshold``, ignored between. With
    ``allow_low_quality_matches``, a candidate with the highest IoU of some ground truth is positive too, unless that
    IoU is zero.

    Returns the index of the matched ground truth (B, A) int64, meaningful for positives, and the match labels (B, A)
    int8: POSITIVE, NEGATIVE or IGNORED.
    """
    images, objects, candidates = iou.shape
    if objects == 0:
        zeros = torch.zeros(images, candidates, dtype=torch.int64, device=iou.device)
        return zeros, zeros.to(torch.int8)
    iou = torch.where(valid[:, :, None], iou, 0)
    best, matched = iou.max(dim=1)
    match_labels = torch.where(
        best >= fg_iou_threshold, POSITIVE, torch.where(best < bg_iou_threshold, NEGATIVE, IGNORED)
    ).to(torch.int8)
    if allow_low_quality_matches:
        highest = iou.amax(dim=2, keepdim=True)
        match_labels = torch.where(((iou == highest) & (highest > 0)).any(dim=1), POSITIVE, match_labels)
    return matched, match_labels
