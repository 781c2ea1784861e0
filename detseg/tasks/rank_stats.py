"""The validation of one rank, and of all of them."""

from __future__ import annotations

import torch.distributed as dist

RankStats = tuple[list[int], dict[str, float], float]
"""The validation of one rank: indices of its images, sums of the losses over them, seconds."""


def gather(stats: RankStats) -> list[RankStats]:
    """Gather the statistics of all ranks. Every rank must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [stats]
    ranks: list[RankStats] = [stats] * dist.get_world_size()
    dist.all_gather_object(ranks, stats)
    return ranks
