"""Batch normalisation of a network: learnt, synchronised over devices, or frozen."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detseg.kernels import is_fast

Norm = Literal["frozen", "batch", "sync"]


class FrozenBatchNorm(FrozenBatchNorm2d):  # type: ignore[misc]
    """Batch norm with fixed statistics and scales, in the precision of ``x`` (torchvision's returns float32).

    The convolution before it may apply it: see ``kernels.folded_norm``.
    """

    folded = False

    def forward(self, x: Tensor) -> Tensor:
        if self.folded and is_fast():
            return x
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def set_norm(network: nn.Module, norm: Norm) -> None:
    """Replace every batch norm in ``network`` by a frozen or synchronised one; "batch" leaves them as they are."""
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if not isinstance(layer, nn.BatchNorm2d) or norm == "batch":
                continue
            other: nn.Module
            if norm == "frozen":
                other = FrozenBatchNorm(layer.num_features, layer.eps)
            else:
                other = nn.SyncBatchNorm(layer.num_features, layer.eps, layer.momentum)
            other.load_state_dict(layer.state_dict())
            setattr(parent, name, other)
