"""The fully connected layer of heads."""

from __future__ import annotations

from torch import Tensor, nn

from detseg.kernels import linear


class Linear(nn.Linear):
    """``nn.Linear`` through the fast kernel of ``detseg.kernels``."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
