"""Which batch normalisation a network has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detseg.kernels.winograd import convolve

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


class FoldedConv2d(nn.Conv2d):
    """A convolution that applies the frozen batch norm after it too, by scaling its weight and shifting its bias.

    So a map is read and written once for both, and stays in half precision where the convolution works in it.
    The weight is still that of ``convolution``, and learns as it would; ``norm`` keeps its place and its state.
    """

    def __init__(self, convolution: nn.Conv2d, norm: FrozenBatchNorm2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(convolution.__dict__)
        self._norm = [norm]  # in a list, or it would be a child of two modules

    def forward(self, x: Tensor) -> Tensor:
        norm = self._norm[0]
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        mean = norm.running_mean if self.bias is None else norm.running_mean - self.bias
        return convolve(self, x, self.weight * scale[:, None, None, None], norm.bias - mean * scale)


class FoldedBatchNorm2d(FrozenBatchNorm2d):  # type: ignore[misc]
    """The state of a frozen batch norm that the convolution before it applies."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def fold(network: nn.Module, run: Callable[[], object]) -> None:
    """Let convolutions apply the frozen batch norms that take their outputs when ``run`` runs the network.

    No name in its state changes by it.
    """
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # with the tensors, or an id could come again
    takers: dict[nn.Conv2d, set[FrozenBatchNorm2d]] = defaultdict(set)

    def give(layer: Any, _: Any, output: Tensor) -> None:
        outputs[id(output)] = layer, output

    def take(layer: Any, inputs: tuple[Tensor]) -> None:
        if id(inputs[0]) in outputs:
            takers[outputs[id(inputs[0])][0]].add(layer)

    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in network.modules() if isinstance(layer, FrozenBatchNorm2d)]
    hooks = [layer.register_forward_hook(give) for layer in convolutions]
    hooks += [layer.register_forward_pre_hook(take) for layer in norms]
    run()
    for hook in hooks:
        hook.remove()

    folded: dict[nn.Module, nn.Module] = {}
    for convolution, followers in takers.items():
        if len(followers) == 1:
            (norm,) = followers
            state = FoldedBatchNorm2d(norm.weight.numel(), norm.eps)
            state.load_state_dict(norm.state_dict())
            folded[norm], folded[convolution] = state, FoldedConv2d(convolution, state)
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if layer in folded:
                setattr(parent, name, folded[layer])
