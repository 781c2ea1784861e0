"""How the learning rate goes over a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

Schedule = Literal["step", "cosine", "plateau", "constant"]

WARMUP_FACTOR = 1 / 1000  # of the learning rate, in the first iteration
DECAY = 0.1  # at each milestone, and when a plateau is reached


def learning_rate_factor(
    schedule: Schedule, warmup_steps: int, milestones: Sequence[int], steps: float
) -> Callable[[int], float]:
    """What the learning rate is multiplied by at each optimizer step.

    It rises in a line over ``warmup_steps``; then ``step`` divides it by ten after each of the ``milestones`` (steps),
    ``cosine`` lets it fall to zero at ``steps``. The others leave it as it is.
    """

    def factor(step: int) -> float:
        warmup = min(1.0, WARMUP_FACTOR + (1 - WARMUP_FACTOR) * step / warmup_steps) if warmup_steps else 1.0
        if schedule == "step":
            return warmup * DECAY ** sum(step >= milestone for milestone in milestones)
        if schedule == "cosine":
            return warmup * (1 + math.cos(math.pi * min(1.0, step / steps))) / 2
        return warmup

    return factor
