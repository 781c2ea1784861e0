"""The layers of necks and heads, through the fast kernels of ``detseg.kernels``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detseg.kernels import autocast_slows, convolve, is_fast
from detseg.modules.backbones.norm import Norm, set_norm


class ConvNormAct(nn.Conv2d):
    """A ``size`` x ``size`` convolution that keeps the size of the map, followed by ``norm``, if any.

    Batch norm replaces the bias; ``bias=False`` omits it for a norm in another module.
    """

    def __init__(self, inputs: int, outputs: int, size: int, norm: Norm | None = None, bias: bool = True) -> None:
        super().__init__(inputs, outputs, size, padding=size // 2, bias=bias and norm is None)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.norm: nn.Module = nn.Identity()
        if norm is not None:
            self.norm = nn.BatchNorm2d(outputs)
            set_norm(self, norm)

    def forward(self, x: Tensor) -> Tensor:
        x = convolve(self, x, self.weight, self.bias) if is_fast() else super().forward(x)
        return self.norm(x)  # type: ignore[no-any-return]


class Linear(nn.Linear):
    """A fully connected layer, in float32 where bfloat16 autocast would be slower on this CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if is_fast() and self.weight.dtype == torch.float32 and autocast_slows(x):
            with torch.autocast("cpu", enabled=False):
                return F.linear(x.float(), self.weight, self.bias).bfloat16()
        return super().forward(x)
