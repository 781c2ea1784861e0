"""Random numbers that follow from a seed and a position alone: no state, so that any device and rank draws the same."""

from __future__ import annotations

import torch
from torch import Tensor

ANCHORS, REGIONS = 0, 1  # streams, which share no numbers


def uniform(seeds: Tensor, index: Tensor, stream: int) -> Tensor:
    """Draw a number in [0, 1) for each of the ``seeds`` (B,) int64 and each ``index`` (A,): (B, A) float32.

    The multiplications and shifts of a 32-bit integer hash (Wellons, "Prospecting for hash functions", 2018), with the
    seed in the place of its first round.
    """
    key = 2 * seeds + stream
    key = (key ^ (key >> 29)) * 0x2545F4914F6CDD1D
    key = ((key >> 32) & 0x7FFFFFFF).to(torch.int32)
    x = key[:, None] ^ (index.to(torch.int32) * -0x61C88647)
    x *= 0x7FEB352D
    x ^= (x >> 15) & 0x1FFFF
    x *= -0x7B935975
    x >>= 8
    x &= 0xFFFFFF
    return x * 2.0**-24
