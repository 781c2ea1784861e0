"""Which batch normalisation a network has."""

from __future__ import annotations

from typing import Literal

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

Norm = Literal["frozen", "batch", "sync"]


def set_norm(network: nn.Module, norm: Norm) -> None:
    """Make every batch norm inside ``network`` one that does not learn, one that does, or one over all devices."""
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if not isinstance(layer, nn.BatchNorm2d) or norm == "batch":
                continue
            other: nn.Module
            if norm == "frozen":
                other = FrozenBatchNorm2d(layer.num_features, layer.eps)
            else:
                other = nn.SyncBatchNorm(layer.num_features, layer.eps, layer.momentum)
            other.load_state_dict(layer.state_dict())
            setattr(parent, name, other)
