"""Learned upsampling."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Upsampling(nn.ConvTranspose2d):
    """Upsample maps (B, C, H, W) by ``factor``, initially by bilinear interpolation.

    A transposed convolution without a bias ("deconvolution", FCN, section 3.3), initialised without connections between
    channels. The map counts as zero outside its edge.
    """

    def __init__(self, channels: int, factor: int) -> None:
        kernel = 2 * factor - factor % 2
        super().__init__(channels, channels, kernel, factor, padding=factor // 2, bias=False)
        with torch.no_grad():
            self.weight.zero_()
            self.weight[range(channels), range(channels)] = bilinear(kernel, factor)


def bilinear(kernel: int, factor: int) -> Tensor:
    """Compute the bilinear weights (kernel, kernel) of the pixels around a cell, highest at its centre."""
    distance = (torch.arange(kernel) - (kernel - 1) / 2).abs()
    line = 1 - distance / factor
    return line[:, None] * line
