"""Parts that models share."""

from detseg.modules.box_head import Conv5Head, RegionHead, TwoFCHead
from detseg.modules.fpn import FPN

__all__ = ["FPN", "Conv5Head", "RegionHead", "TwoFCHead"]
