"""Faster drop-ins for plain operations, and the switch between the two.

Modules call the functions that this package exports. ``use(fast=False)`` sends all of them down the plain path of
``detseg.ops`` and PyTorch; each fast kernel equals its plain form in a test.
"""

from detseg.kernels.cpu import autocast_slows
from detseg.kernels.dispatch import conv2d, is_fast, nms, use
from detseg.kernels.roi_pooling import gather_patches, roi_align

__all__ = ["autocast_slows", "conv2d", "gather_patches", "is_fast", "nms", "roi_align", "use"]
