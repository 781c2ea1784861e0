"""Greedy suppression as one kernel for a GPU, which therefore need not ask the host how many boxes are left."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

WARPS = 32  # that share an image


@triton.jit  # type: ignore[untyped-decorator]
def _suppress(boxes, scores, groups, indices, kept, threshold, count, limit, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One program for each image: take the best box that is left, and drop it and what it overlaps, until none is."""
    image = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, BLOCK)
    inside = rows < count
    corner = boxes + (image * count + rows) * 4
    x1 = tl.load(corner, mask=inside, other=0.0)
    y1 = tl.load(corner + 1, mask=inside, other=0.0)
    x2 = tl.load(corner + 2, mask=inside, other=0.0)
    y2 = tl.load(corner + 3, mask=inside, other=0.0)
    area = (x2 - x1) * (y2 - y1)
    group = tl.load(groups + image * count + rows, mask=inside, other=-1)
    left = tl.load(scores + image * count + rows, mask=inside, other=float("-inf"))
    slot = 0
    score, best = tl.max(left, axis=0, return_indices=True, return_indices_tie_break_left=True)
    while (score > float("-inf")) & (slot < limit):
        tl.store(indices + image * limit + slot, best.to(tl.int64))
        tl.store(kept + image * limit + slot, 1)
        one = boxes + (image * count + best) * 4
        own_x1, own_y1, own_x2, own_y2 = tl.load(one), tl.load(one + 1), tl.load(one + 2), tl.load(one + 3)
        width = tl.maximum(tl.minimum(x2, own_x2) - tl.maximum(x1, own_x1), 0.0)
        height = tl.maximum(tl.minimum(y2, own_y2) - tl.maximum(y1, own_y1), 0.0)
        shared = width * height
        union = area + (own_x2 - own_x1) * (own_y2 - own_y1) - shared
        rival = (shared > threshold * union) & (group == tl.load(groups + image * count + best))
        left = tl.where(rival | (rows == best), float("-inf"), left)
        slot += 1
        score, best = tl.max(left, axis=0, return_indices=True, return_indices_tie_break_left=True)


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, limit: int) -> tuple[Tensor, Tensor]:
    """``suppression.suppress`` of float32 ``boxes`` and ``scores``, which are -inf where there is no box."""
    images, count = scores.shape
    indices = torch.zeros(images, limit, dtype=torch.int64, device=boxes.device)
    kept = torch.zeros(images, limit, dtype=torch.bool, device=boxes.device)
    if images and count:
        arguments: tuple[Any, ...] = (boxes.contiguous(), scores.contiguous(), groups.contiguous(), indices, kept)
        block = triton.next_power_of_2(count)
        _suppress[(images,)](*arguments, threshold, count, limit, BLOCK=block, num_warps=WARPS)
    return indices, kept
