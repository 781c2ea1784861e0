"""Greedy NMS as two GPU kernels, so that the host need not wait for the number of remaining boxes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from detseg.ops.boxes import as_float, fake_nms

TILE = tl.constexpr(64)  # boxes of a tile: their overlaps with one box are the bits of an int64
CHUNK = tl.constexpr(1024)  # boxes whose overlaps are read at once
WARPS = 8  # of each program; with these, no register spills


@triton.jit
def _or(a, b):  # type: ignore[no-untyped-def]
    return a | b


@triton.jit
def _overlap_kernel(boxes, groups, overlaps, threshold, count):  # type: ignore[no-untyped-def]
    """Compare the boxes of two tiles of an image: for each box, the set of later boxes that it would suppress.

    ``boxes`` (B, N, 4) and ``groups`` (B, N) come best first. The sets (B, tiles, N) are ``overlaps``.
    """
    row_tile, tile, image = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    if row_tile <= tile:  # no box suppresses a better one
        rows, columns = row_tile * TILE + tl.arange(0, TILE), tile * TILE + tl.arange(0, TILE)
        row, column = boxes + (image * count + rows) * 4, boxes + (image * count + columns) * 4
        x1, other_x1 = tl.load(row, mask=rows < count), tl.load(column, mask=columns < count)
        y1, other_y1 = tl.load(row + 1, mask=rows < count), tl.load(column + 1, mask=columns < count)
        x2, other_x2 = tl.load(row + 2, mask=rows < count), tl.load(column + 2, mask=columns < count)
        y2, other_y2 = tl.load(row + 3, mask=rows < count), tl.load(column + 3, mask=columns < count)
        group = tl.load(groups + image * count + rows, mask=rows < count)
        other_group = tl.load(groups + image * count + columns, mask=columns < count)
        width = tl.maximum(tl.minimum(x2[:, None], other_x2[None]) - tl.maximum(x1[:, None], other_x1[None]), 0.0)
        height = tl.maximum(tl.minimum(y2[:, None], other_y2[None]) - tl.maximum(y1[:, None], other_y1[None]), 0.0)
        intersection = width * height
        area, other_area = (x2 - x1) * (y2 - y1), (other_x2 - other_x1) * (other_y2 - other_y1)
        overlapping = intersection > threshold * (area[:, None] + other_area[None] - intersection)
        later = (columns[None] > rows[:, None]) & (columns[None] < count)
        overlapping &= later & (group[:, None] == other_group[None])
        bits = overlapping.to(tl.int64) << tl.arange(0, TILE).to(tl.int64)[None]
        target = overlaps + (image * tl.num_programs(1) + tile) * count + rows
        tl.store(target, tl.sum(bits, axis=1), mask=rows < count)


@triton.jit
def _select_kernel(overlaps, valid, order, indices, kept, count, limit):  # type: ignore[no-untyped-def]
    """Keep each ``valid`` (B, N) box of an image that no better kept box suppresses, until there are ``limit``.

    ``order`` (B, N) holds the boxes' indices, which go into ``indices`` (B, limit); ``kept`` (B, N) is 0 before.
    """
    image, tiles = tl.program_id(0).to(tl.int64), tl.cdiv(count, TILE)
    valid, order, kept, indices = (
        valid + image * count,
        order + image * count,
        kept + image * count,
        indices + image * limit,
    )
    bits = tl.arange(0, TILE)
    tile, slot = 0, 0
    while (tile < tiles) & (slot < limit):
        sets = overlaps + (image * tiles + tile) * count
        suppressed = tl.zeros((CHUNK,), tl.int64)
        for first in range(0, tile * TILE, CHUNK):
            better = first + tl.arange(0, CHUNK)
            inside = better < tile * TILE
            is_kept = tl.load(kept + better, mask=inside, other=0) != 0
            suppressed |= tl.where(is_kept, tl.load(sets + better, mask=inside, other=0), 0)
        rows = tile * TILE + bits
        candidates = tl.load(valid + rows, mask=rows < count, other=0).to(tl.int64) << bits.to(tl.int64)
        remaining = tl.sum(candidates, axis=0) & ~tl.reduce(suppressed, 0, _or)
        for bit in tl.static_range(TILE):  # unrolled: the loads do not depend on each other
            of_box = tl.load(sets + tile * TILE + bit, mask=tile * TILE + bit < count, other=0)
            remaining &= ~tl.where(((remaining >> bit) & 1) != 0, of_box, 0)
        remains = ((remaining >> bits.to(tl.int64)) & 1).to(tl.int32)
        slots = slot + tl.cumsum(remains, axis=0) - 1
        tl.store(kept + rows, remains.to(tl.int8), mask=rows < count)
        tl.store(indices + slots, tl.load(order + rows, mask=rows < count), mask=(remains != 0) & (slots < limit))
        slot += tl.sum(remains, axis=0)
        tile += 1
        tl.debug_barrier()  # all threads must see what is kept


@torch.library.custom_op("detseg::triton_nms", mutates_args=())
def nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Compute ``ops.boxes.nms`` without waiting for the device."""
    images, count = scores.shape
    tiles = triton.cdiv(count, TILE.value)
    indices = torch.zeros(images, limit, dtype=torch.int64, device=boxes.device)
    kept = torch.zeros(images, count, dtype=torch.int8, device=boxes.device)
    if images and count and limit:
        order = torch.where(valid, as_float(scores), -torch.inf).argsort(dim=1, descending=True, stable=True)
        boxes = as_float(boxes).gather(1, order[..., None].expand(-1, -1, 4))
        overlaps = torch.empty(images, tiles, count, dtype=torch.int64, device=boxes.device)
        groups, valid = groups.gather(1, order), valid.gather(1, order).to(torch.int8)
        with torch.cuda.device_of(boxes):  # type: ignore[no-untyped-call]  # Triton would launch on the current device
            _overlap_kernel[(tiles, tiles, images)](boxes, groups, overlaps, threshold, count, num_warps=WARPS)
            _select_kernel[(images,)](overlaps, valid, order, indices, kept, count, limit, num_warps=WARPS)
    slots = torch.arange(limit, device=boxes.device)
    return indices, slots < kept.sum(dim=1, keepdim=True)


nms.register_fake(fake_nms)
