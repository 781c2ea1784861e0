"""ResNets of basic blocks with any depth, width and kind of shortcut (He et al. 2015, arXiv:1512.03385)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from detseg.modules.backbones.resnet import PlainBlock, ResNet

Shortcuts = Literal["none", "A", "B", "C"]


class PaddedIdentity(nn.Module):
    """Every ``stride``-th cell of a map, with ``added`` channels of zeros (section 3.3, option A)."""

    def __init__(self, stride: int, added: int) -> None:
        super().__init__()
        self.stride, self.added = stride, added

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))


class Network(nn.Module):
    """The classifier, with torchvision's names and initial weights."""

    def __init__(self, blocks: Sequence[int], width: int, shortcuts: Shortcuts, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        block = PlainBlock if shortcuts == "none" else BasicBlock
        inputs = width
        for stage, count in enumerate(blocks):
            layer = nn.Sequential()
            for index in range(count):
                outputs, stride = width * 2**stage, 2 if stage and not index else 1
                layer.append(block(inputs, outputs, stride, make_shortcut(shortcuts, inputs, outputs, stride)))
                inputs = outputs
            self.add_module(f"layer{stage + 1}", layer)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BasicResNet(ResNet):
    """A ResNet of basic blocks with any depth and width, for small images and experiments.

    ``blocks`` are the numbers of blocks in conv2 to conv5, of two convolutions each; (2, 2, 2, 2) with a ``width`` of
    64 is ResNet-18. conv2 has ``width`` channels, and each later stage twice as many as the one before.

    ``shortcuts`` are those of table 3: where a stage changes the size, "A" pads the identity with zeros, and "B"
    projects it by a 1 x 1 convolution; "C" projects in every block. "none" makes a plain network.
    ``zero_init_residual`` as in ``ResNet``.

    Raises ValueError unless ``blocks`` are four numbers, and these and ``width`` are at least 1.
    """

    def __init__(
        self,
        blocks: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        shortcuts: Shortcuts = "B",
        zero_init_residual: bool = False,
        weights: str | None = None,
        stages: Sequence[int] = (2, 3, 4, 5),
        frozen: int | None = None,
    ) -> None:
        if len(blocks) != 4 or min(*blocks, width) < 1:
            raise ValueError(f"blocks {list(blocks)} must be four numbers and width {width} one, all at least 1")
        self.blocks, self.width, self.shortcuts = blocks, width, shortcuts
        name: Any = f"{'plain' if shortcuts == 'none' else 'resnet'}{2 * sum(blocks) + 2}_{width}"
        super().__init__(name, weights, stages, frozen, zero_init_residual=zero_init_residual)

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        return [{}]

    def build(self, num_classes: int) -> nn.Module:
        network = Network(self.blocks, self.width, self.shortcuts, num_classes)
        for module in network.modules():
            if self.zero_init_residual and isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)
        return network


def make_shortcut(shortcuts: Shortcuts, inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """Make the shortcut of a basic block; None for the identity."""
    if shortcuts == "C" or (shortcuts == "B" and inputs != outputs):
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return PaddedIdentity(stride, outputs - inputs) if inputs != outputs else None
