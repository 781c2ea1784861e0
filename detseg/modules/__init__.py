"""Parts that models share."""

from detseg.modules.box_head import ClassifierHead, Conv5Head, ConvFCHead, RegionHead, TwoFCHead, truncate
from detseg.modules.fpn import FPN

__all__ = ["FPN", "ClassifierHead", "Conv5Head", "ConvFCHead", "RegionHead", "TwoFCHead", "truncate"]
