"""Parts that models share."""

from detseg.modules.box_head import ClassifierHead, ConvFCHead, RegionHead, Res5Head, TwoMLPHead, truncate
from detseg.modules.fpn import FPN

__all__ = ["FPN", "ClassifierHead", "ConvFCHead", "RegionHead", "Res5Head", "TwoMLPHead", "truncate"]
