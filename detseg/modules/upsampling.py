"""Upsampling that is learnt."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Upsampling(nn.ConvTranspose2d):
    """Makes maps (B, C, H, W) ``factor`` times as large; before it has learnt anything, by bilinear interpolation.

    A transposed convolution without a bias ("deconvolution", FCN, section 3.3), in which a class begins with no regard
    to the others. Beyond its edge, a map counts as zero.
    """

    def __init__(self, channels: int, factor: int) -> None:
        kernel = 2 * factor - factor % 2
        super().__init__(channels, channels, kernel, factor, padding=factor // 2, bias=False)
        with torch.no_grad():
            self.weight.zero_()
            self.weight[range(channels), range(channels)] = bilinear(kernel, factor)


def bilinear(kernel: int, factor: int) -> Tensor:
    """The weights (kernel, kernel) that the pixels around a cell have of it, highest at its centre."""
    distance = (torch.arange(kernel) - (kernel - 1) / 2).abs()
    line = 1 - distance / factor
    return line[:, None] * line
