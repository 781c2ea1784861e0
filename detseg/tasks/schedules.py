"""The learning rate: how it goes over a training, and whose it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import nn

from detseg.modules import FPN

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


def parameter_groups(model: nn.Module, lr: float, backbone_factor: float) -> list[dict[str, Any]]:
    """The parameters that train, for an optimizer: those of the backbone at ``backbone_factor`` times ``lr``.

    A feature pyramid on a backbone is no part of it. With the same rate all are one group, as they are in checkpoints
    that know of no other.
    """
    backbone = getattr(model, "backbone", None)
    body = backbone.backbone if isinstance(backbone, FPN) else backbone
    slower = set(body.parameters()) if body is not None and backbone_factor != 1 else set()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in trained if one in slower], "lr": lr * backbone_factor},
        {"params": [one for one in trained if one not in slower], "lr": lr},
    ]
    return [group for group in groups if group["params"]]
