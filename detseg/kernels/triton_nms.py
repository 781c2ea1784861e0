"""Greedy NMS as one GPU kernel, so that the host need not wait for the number of remaining boxes."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from detseg.ops.boxes import as_float

WARPS = 32  # of the program of each image


@triton.jit  # type: ignore[untyped-decorator]
def _nms_kernel(boxes, scores, groups, indices, kept, threshold, count, limit, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Suppress the boxes of one image: keep the best remaining box, drop it and its overlaps, and repeat."""
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
    remaining = tl.load(scores + image * count + rows, mask=inside, other=float("-inf"))
    slot = 0
    score, best = tl.max(remaining, axis=0, return_indices=True, return_indices_tie_break_left=True)
    while (score > float("-inf")) & (slot < limit):
        tl.store(indices + image * limit + slot, best.to(tl.int64))
        tl.store(kept + image * limit + slot, 1)
        box = boxes + (image * count + best) * 4
        best_x1, best_y1, best_x2, best_y2 = tl.load(box), tl.load(box + 1), tl.load(box + 2), tl.load(box + 3)
        width = tl.maximum(tl.minimum(x2, best_x2) - tl.maximum(x1, best_x1), 0.0)
        height = tl.maximum(tl.minimum(y2, best_y2) - tl.maximum(y1, best_y1), 0.0)
        intersection = width * height
        union = area + (best_x2 - best_x1) * (best_y2 - best_y1) - intersection
        overlapping = (intersection > threshold * union) & (group == tl.load(groups + image * count + best))
        remaining = tl.where(overlapping | (rows == best), float("-inf"), remaining)
        slot += 1
        score, best = tl.max(remaining, axis=0, return_indices=True, return_indices_tie_break_left=True)


@torch.library.custom_op("detseg::triton_nms", mutates_args=())
def nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Compute ``ops.nms.nms`` without waiting for the device."""
    images, count = scores.shape
    indices = torch.zeros(images, limit, dtype=torch.int64, device=boxes.device)
    kept = torch.zeros(images, limit, dtype=torch.bool, device=boxes.device)
    if images and count:
        scores = torch.where(valid, as_float(scores), -torch.inf)
        inputs: tuple[Any, ...] = (as_float(boxes).contiguous(), scores.contiguous(), groups.contiguous())
        block = triton.next_power_of_2(count)
        _nms_kernel[(images,)](*inputs, indices, kept, threshold, count, limit, BLOCK=block, num_warps=WARPS)
    return indices, kept


@nms.register_fake
def _(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    shape = (boxes.shape[0], limit)
    return boxes.new_empty(shape, dtype=torch.int64), boxes.new_empty(shape, dtype=torch.bool)
