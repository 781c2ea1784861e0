"""Which batch normalisation a network has."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

Norm = Literal["frozen", "batch", "sync"]


class FrozenBatchNorm(FrozenBatchNorm2d):  # type: ignore[misc]
    """torchvision's, in a single step that keeps the precision of ``x``; there, bfloat16 would become float32."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def set_norm(network: nn.Module, norm: Norm) -> None:
    """Make every batch norm inside ``network`` one that does not learn, one that does, or one over all devices."""
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
