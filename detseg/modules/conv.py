"""The convolution layer of necks and heads."""

from __future__ import annotations

from torch import Tensor, nn

from detseg.kernels import conv2d
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
        return self.norm(conv2d(self, x, self.weight, self.bias))  # type: ignore[no-any-return]
