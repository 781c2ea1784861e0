"""Frozen batch norm applied by the convolution before it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detseg.kernels.dispatch import is_fast
from detseg.kernels.winograd import convolve


class FoldedConv2d(nn.Conv2d):
    """A convolution that applies the frozen batch norm after it, by scaling its weight and shifting its bias.

    A map is then read and written once for both, and stays in half precision if the convolution works in it. The
    weight is still that of the convolution, and learns as it would; ``norm`` keeps its place and its state in the
    network, and must return its input unchanged while ``kernels.is_fast()``.
    """

    def __init__(self, convolution: nn.Conv2d, norm: FrozenBatchNorm2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(convolution.__dict__)
        self._norm = [norm]  # in a list, or it would be a child of two modules

    def forward(self, x: Tensor) -> Tensor:
        if not is_fast():
            return super().forward(x)
        norm = self._norm[0]
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        mean = norm.running_mean if self.bias is None else norm.running_mean - self.bias
        return convolve(self, x, self.weight * scale[:, None, None, None], norm.bias - mean * scale)


def fold(network: nn.Module, run: Callable[[], object]) -> None:
    """Fold every frozen batch norm of ``network`` that alone reads the output of a convolution, as ``run`` shows.

    Replaces the convolution by a ``FoldedConv2d`` and sets ``folded`` of the norm. No name in the state changes.
    """
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # with the tensors: a freed tensor's id could be reused
    readers: dict[nn.Conv2d, set[FrozenBatchNorm2d]] = defaultdict(set)

    def record_output(layer: Any, _: Any, output: Tensor) -> None:
        outputs[id(output)] = layer, output

    def record_reader(layer: Any, inputs: tuple[Tensor]) -> None:
        if id(inputs[0]) in outputs:
            readers[outputs[id(inputs[0])][0]].add(layer)

    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in network.modules() if isinstance(layer, FrozenBatchNorm2d)]
    hooks = [layer.register_forward_hook(record_output) for layer in convolutions]
    hooks += [layer.register_forward_pre_hook(record_reader) for layer in norms]
    run()
    for hook in hooks:
        hook.remove()

    folded: dict[nn.Module, FoldedConv2d] = {}
    for convolution, followers in readers.items():
        if len(followers) == 1:
            (norm,) = followers
            norm.folded = True
            folded[convolution] = FoldedConv2d(convolution, norm)
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if layer in folded:
                setattr(parent, name, folded[layer])
