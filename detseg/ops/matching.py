"""Which ground truth each anchor or proposal answers for."""

from __future__ import annotations

import torch
from torch import Tensor

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


def match(iou: Tensor, valid: Tensor, high: float, low: float, low_quality: bool) -> tuple[Tensor, Tensor]:
    """Match candidates to the ground truth they overlap most (Faster R-CNN, section 3.1.2).

    ``iou`` (B, N, A) of N ground truths with A candidates, ``valid`` (B, N) which ground truths exist. A candidate is
    positive at IoU >= ``high``, negative below ``low``, ignored between. With ``low_quality``, a candidate that no
    other beats for some ground truth is positive too, provided that it touches it at all.

    Returns the matched ground truth (B, A) int64 (meaningful where positive) and the kind (B, A) int8.
    """
    images, objects, candidates = iou.shape
    if objects == 0:
        nothing = torch.zeros(images, candidates, dtype=torch.int64, device=iou.device)
        return nothing, nothing.to(torch.int8)
    iou = torch.where(valid[:, :, None], iou, 0)
    best, matched = iou.max(dim=1)
    kind = torch.where(best >= high, POSITIVE, torch.where(best < low, NEGATIVE, IGNORED)).to(torch.int8)
    if low_quality:
        highest = iou.amax(dim=2, keepdim=True)
        kind = torch.where(((iou == highest) & (highest > 0)).any(dim=1), POSITIVE, kind)
    return matched, kind
