"""Faster drop-ins for plain operations, and the switch between the two.

Modules ask ``is_fast``. After ``use(fast=False)`` all of them take the plain path of ``detseg.ops``, PyTorch and
torchvision; each fast kernel equals its plain form in a test.
"""

from detseg.kernels.cpu import autocast_slows
from detseg.kernels.dispatch import is_fast, nms, use
from detseg.kernels.roi_pooling import gather_patches, roi_align
from detseg.kernels.winograd import convolve

__all__ = ["autocast_slows", "convolve", "gather_patches", "is_fast", "nms", "roi_align", "use"]
