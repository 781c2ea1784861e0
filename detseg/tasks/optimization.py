"""Optimizer, parameter groups and learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, ReduceLROnPlateau

from detseg.errors import ConfigError
from detseg.modules import FPN

WARMUP_FACTOR = 1 / 1000  # of the learning rate, in the first iteration, as in torchvision and detectron2
DECAY = 0.1  # at each milestone, and when a plateau is reached
PATIENCE = 3  # validations without a better value, after which "plateau" lowers the learning rate


@dataclass(frozen=True)
class OptimizerConfig:
    """SGD or AdamW; ``momentum`` is SGD's.

    The backbone learns at ``backbone_lr_factor`` times the learning rate: below 1, new layers learn quickly while the
    backbone keeps its features. A feature pyramid on a backbone is not part of it.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    backbone_lr_factor: float = 1.0

    def __post_init__(self) -> None:
        limits = {"momentum": (self.momentum, 0.0), "weight_decay": (self.weight_decay, 0.0)}
        require_at_least("optimizer.", **limits, backbone_lr_factor=(self.backbone_lr_factor, 0))

    def build(self, model: nn.Module, lr: float, fused: bool | None) -> Optimizer:
        """Make the optimizer of the trainable parameters of a model.

        With a factor of 1 all are one group, as in checkpoints that were trained so.
        """
        backbone = getattr(model, "backbone", None)
        body = backbone.backbone if isinstance(backbone, FPN) else backbone
        slower = set(body.parameters()) if body is not None and self.backbone_lr_factor != 1 else set()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [one for one in trained if one in slower], "lr": lr * self.backbone_lr_factor},
            {"params": [one for one in trained if one not in slower], "lr": lr},
        ]
        groups = [group for group in groups if group["params"]]
        if self.name == "adamw":
            return AdamW(groups, weight_decay=self.weight_decay, fused=fused)
        return SGD(groups, momentum=self.momentum, weight_decay=self.weight_decay, fused=fused)


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over a training.

    It rises linearly over the first ``warmup_steps``, at most the first epoch (gradual warm-up, Goyal et al. 2017,
    arXiv:1706.02677, section 2.2). Then "step" divides it by ten after each of the ``milestones`` (epochs), "cosine"
    lowers it to zero at the end, "plateau" divides it by ten when the monitored metric no longer improves, and
    "constant" leaves it as it is.
    """

    name: Literal["step", "cosine", "plateau", "constant"] = "step"
    milestones: Sequence[int] = (8, 11)
    warmup_steps: int = 1000

    def __post_init__(self) -> None:
        require_at_least("schedule.", warmup_steps=(self.warmup_steps, 0))

    def factor(self, warmup_steps: int, milestones: Sequence[int], steps: float) -> Callable[[int], float]:
        """The factor of the learning rate at each optimizer step; ``milestones`` and the end ``steps`` are in steps."""

        def factor(step: int) -> float:
            warmup = min(1.0, WARMUP_FACTOR + (1 - WARMUP_FACTOR) * step / warmup_steps) if warmup_steps else 1.0
            if self.name == "step":
                return warmup * DECAY ** sum(step >= milestone for milestone in milestones)
            if self.name == "cosine":
                return warmup * (1 + math.cos(math.pi * min(1.0, step / steps))) / 2
            return warmup

        return factor

    def build(
        self, optimizer: Optimizer, epoch_steps: int, steps: float, monitor_mode: Literal["min", "max"] = "max"
    ) -> list[LRScheduler]:
        """Make the schedulers: one that moves with each step; for "plateau" a second that moves with each validation.

        ``epoch_steps`` and ``steps`` are those of an epoch and of the training; "plateau" takes a lower value of the
        monitored metric for a better one if ``monitor_mode`` is "min". Raises ConfigError for a cosine without an end.
        """
        if self.name == "cosine" and not math.isfinite(steps):
            raise ConfigError("the cosine schedule needs an end: set `max_epochs` or `max_steps`")
        warmup = min(self.warmup_steps, epoch_steps)
        if self.name == "plateau":
            # Two schedulers that multiply the current rate; a LambdaLR would undo the change of the other.
            rise = LinearLR(optimizer, WARMUP_FACTOR if warmup else 1.0, total_iters=warmup)
            return [rise, ReduceLROnPlateau(optimizer, mode=monitor_mode, factor=DECAY, patience=PATIENCE)]
        milestones = [milestone * epoch_steps for milestone in self.milestones]
        return [LambdaLR(optimizer, self.factor(warmup, milestones, steps))]


def require_at_least(prefix: str = "", **limits: tuple[float, float]) -> None:
    """Raise ConfigError for a value below its limit; ``limits`` are both by name."""
    for name, (value, limit) in limits.items():
        if value < limit:
            raise ConfigError(f"{prefix}{name}: {value} must be at least {limit}")
