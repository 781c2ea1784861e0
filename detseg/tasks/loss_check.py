"""Steps whose loss or gradient is not finite: detected without waiting for the device, left out, and recorded."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from detseg.errors import DetsegError
from detseg.structures import Batch

log = logging.getLogger(__name__)

FILE = "bad_steps.jsonl"  # in the folder of the run


def spoil_gradient(loss: Tensor) -> Tensor:
    """Give a loss that is not finite a gradient of NaN, which the sum of the gradients takes to all ranks."""
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)


class LossCheck:
    """Check of one training step: its answer is asked for a step later, when the device has computed it anyway."""

    def __init__(self, step: int, losses: dict[str, Tensor], batch: Batch, total: Tensor) -> None:
        self.step, self.losses, self.image_index, self.seeds = step, losses, batch.image_index, batch.seeds
        self.finite = torch.isfinite(total.detach())
        self._send()

    def leave_out(self, optimizer: Optimizer) -> None:
        """Let the step of the optimizer change nothing unless all gradients are finite."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.finite = torch.isfinite(get_total_norm(gradients))
        self._send()
        # A fused optimizer decides on the device, as for a gradient scaler. Its first step allocates the momentum.
        if self.finite.is_cuda and optimizer.param_groups[0].get("fused") and optimizer.state:
            optimizer.found_inf = (~self.finite).float()  # type: ignore[attr-defined]
        elif not self.is_finite():
            optimizer.zero_grad()  # parameters without a gradient are left alone

    def is_finite(self) -> bool:
        """Wait for the answer of this step, not for later work of the device."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._on_host)

    def _send(self) -> None:
        self._on_host = self.finite.to("cpu", non_blocking=True)
        self._arrived = torch.cuda.current_stream().record_event() if self.finite.is_cuda else None


class RunningStatistics:
    """The statistics of batch norm, which take no values that are not finite: they would spoil every evaluation."""

    def __init__(self, model: nn.Module) -> None:
        norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.training]
        statistics = [value for norm in norms for value in (norm.running_mean, norm.running_var)]
        self._statistics = [value for value in statistics if value is not None]
        self._finite = [value.clone() for value in self._statistics]

    @torch.no_grad()
    def restore(self) -> None:
        """Put back the last finite value of each statistic that is not finite."""
        for value, finite in zip(self._statistics, self._finite, strict=True):
            finite.copy_(torch.where(value.isfinite(), value, finite))
            value.copy_(finite)


class BadSteps:
    """The steps of a training that were left out, with their batches in a file.

    The training stops at ``max_in_a_row`` of them in a row, or if they are more than that and more than 1 % of
    its ``steps``.
    """

    def __init__(self, folder: Path, max_in_a_row: int, steps: float) -> None:
        self.folder, self.max_in_a_row = folder, max_in_a_row
        self.limit = max(max_in_a_row, 0.01 * steps)
        self.last, self.in_a_row, self.count = -2, 0, 0

    def add(self, check: LossCheck, epoch: int, rank: int, images: Sequence[str]) -> None:
        """Record a step that was not finite. Raises DetsegError with its losses and images if there are too many."""
        if check.step != self.last:  # else it is another batch of the same step
            self.in_a_row = self.in_a_row + 1 if check.step == self.last + 1 else 1
            self.last, self.count = check.step, self.count + 1
        losses = {name: f"{value.item():g}" for name, value in check.losses.items()}
        seeds = [] if check.seeds is None else check.seeds.tolist()
        record = {"step": check.step, "epoch": epoch, "rank": rank, "losses": losses, "images": images, "seeds": seeds}
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        which = "loss" if not all(value.isfinite() for value in check.losses.values()) else "gradient of the loss"
        reason = f"the {which} is not finite in step {check.step}: " + ", ".join(f"{k} {v}" for k, v in losses.items())
        reason += f"; the images were {', '.join(images)}"
        if self.in_a_row < self.max_in_a_row and self.count <= self.limit:
            log.warning("%s. The step is left out; %s lists the batch", reason, self.folder / FILE)
            return
        many = f"{self.in_a_row} steps in a row" if self.in_a_row >= self.max_in_a_row else f"{self.count} steps"
        raise DetsegError(
            f"{reason}. With it, {many} were left out, as many as `max_bad_steps` allows; {self.folder / FILE} lists "
            "their batches. Check their labels; if they are valid, lower `lr` or raise `warmup_steps`"
        )
