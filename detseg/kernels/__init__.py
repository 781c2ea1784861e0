"""Faster drop-ins for operations of ``detseg.ops``, and the switch between the two.

Modules call the functions that this package exports. ``use(fast=False)`` sends all of them down the plain path of
``detseg.ops`` and PyTorch; each fast kernel equals its plain form in a test.
"""

from detseg.kernels.dispatch import conv2d, is_fast, linear, nms, roi_align, use

__all__ = ["conv2d", "is_fast", "linear", "nms", "roi_align", "use"]
