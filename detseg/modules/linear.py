"""The fully connected layer that heads are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detseg.kernels.processor import autocast_slows


class Linear(nn.Linear):
    """Takes and gives bfloat16 under autocast, and multiplies in float32 where the processor is quicker in it."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dtype != torch.float32 or not autocast_slows(x):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return F.linear(x.float(), self.weight, self.bias).bfloat16()
