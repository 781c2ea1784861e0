"""Parts that models share."""

from detseg.modules.anchor_generator import AnchorGenerator
from detseg.modules.box_head import (
    BoxHead,
    BoxPredictor,
    ClassifierHead,
    ConvFCHead,
    Res5Head,
    TwoMLPHead,
    svd_compress,
)
from detseg.modules.fpn import FPN
from detseg.modules.mask_head import MaskHead
from detseg.modules.postprocessor import Postprocessor
from detseg.modules.roi_heads import RoIHeads
from detseg.modules.roi_pooler import RoIAlign, RoIPool, RoIPooler
from detseg.modules.rpn import RPN, RPNHead
from detseg.modules.target_assignment import BalancedSampler, Matcher

__all__ = [
    "FPN",
    "RPN",
    "AnchorGenerator",
    "BalancedSampler",
    "BoxHead",
    "BoxPredictor",
    "ClassifierHead",
    "ConvFCHead",
    "MaskHead",
    "Matcher",
    "Postprocessor",
    "RPNHead",
    "Res5Head",
    "RoIAlign",
    "RoIHeads",
    "RoIPool",
    "RoIPooler",
    "TwoMLPHead",
    "svd_compress",
]
