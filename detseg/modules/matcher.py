"""Assignment of anchors and proposals to the ground truth (Faster R-CNN, section 3.1.2; Fast R-CNN, section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from detseg.configurable import Configurable
from detseg.modules.part import check_ranges
from detseg.ops.matching import IGNORED, NEGATIVE, match


class Matcher(Configurable):
    """Match each candidate box to the ground truth that it overlaps most.

    A candidate is positive at IoU >= ``fg_iou_threshold``, negative below ``bg_iou_threshold`` but not below
    ``min_bg_iou``, and ignored elsewhere. With ``allow_low_quality_matches`` the best candidates of every ground truth
    are positive too, at any IoU above 0.

    Raises ValueError unless 0 <= ``min_bg_iou`` <= ``bg_iou_threshold`` <= ``fg_iou_threshold`` <= 1.
    """

    def __init__(
        self,
        fg_iou_threshold: float,
        bg_iou_threshold: float,
        allow_low_quality_matches: bool,
        min_bg_iou: float = 0.0,
    ) -> None:
        thresholds = {"bg_iou_threshold": bg_iou_threshold, "min_bg_iou": min_bg_iou}
        check_ranges({}, {"fg_iou_threshold": fg_iou_threshold})
        for (name, value), limit in zip(thresholds.items(), (fg_iou_threshold, bg_iou_threshold), strict=True):
            if not 0 <= value <= limit:
                raise ValueError(f"{name} is {value}, and must be between 0 and {limit}")
        self.fg_iou_threshold, self.bg_iou_threshold = fg_iou_threshold, bg_iou_threshold
        self.allow_low_quality_matches = allow_low_quality_matches
        self.min_bg_iou = min_bg_iou

    def __call__(self, iou: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Match A candidates by their ``iou`` (B, N, A) with N ground truths, of which the ``valid`` (B, N) exist.

        Returns the matched ground truth (B, A) int64, meaningful where positive, and the match labels (B, A) int8:
        POSITIVE, NEGATIVE or IGNORED.
        """
        matched, match_labels = match(
            iou, valid, self.fg_iou_threshold, self.bg_iou_threshold, self.allow_low_quality_matches
        )
        if self.min_bg_iou > 0:
            highest = torch.where(valid[..., None], iou, 0).amax(dim=1)
            too_far = (match_labels == NEGATIVE) & (highest < self.min_bg_iou)
            match_labels = torch.where(too_far, IGNORED, match_labels)
        return matched, match_labels
