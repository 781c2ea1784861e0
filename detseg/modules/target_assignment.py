"""Training targets of anchors and regions: which object each one shows, and which of them the loss is computed from.

Faster R-CNN, section 3.1.2; Fast R-CNN, section 2.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detseg.configurable import Configurable
from detseg.modules.part import check_ranges

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1  # match labels
ANCHORS, REGIONS = 0, 1  # streams of random numbers, which share none


class Matcher(Configurable):
    """Match each candidate box to the ground truth that it overlaps most.

    A candidate is positive at IoU >= ``fg_iou_threshold``, negative below ``bg_iou_threshold`` but not below
    ``min_bg_iou``, and ignored elsewhere. With ``allow_low_quality_matches`` a candidate with the highest IoU of some
    ground truth is positive too, unless that IoU is zero.

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
        images, objects, candidates = iou.shape
        if objects == 0:
            zeros = torch.zeros(images, candidates, dtype=torch.int64, device=iou.device)
            return zeros, torch.full_like(zeros, IGNORED if self.min_bg_iou > 0 else NEGATIVE, dtype=torch.int8)
        iou = torch.where(valid[:, :, None], iou, 0)
        best, matched = iou.max(dim=1)
        negative = (best < self.bg_iou_threshold) & (best >= self.min_bg_iou)
        match_labels = torch.where(negative, NEGATIVE, IGNORED)
        match_labels = torch.where(best >= self.fg_iou_threshold, POSITIVE, match_labels).to(torch.int8)
        if self.allow_low_quality_matches:
            highest = iou.amax(dim=2, keepdim=True)
            match_labels = torch.where(((iou == highest) & (highest > 0)).any(dim=1), POSITIVE, match_labels)
        return matched, match_labels


class BalancedSampler(Configurable):
    """Draw ``batch_size_per_image`` candidates, at most ``positive_fraction`` of them positive.

    Negatives replace missing positives; where both run out, slots stay empty. A subclass may choose otherwise, within
    the same numbers.
    """

    def __init__(self, batch_size_per_image: int, positive_fraction: float) -> None:
        check_ranges({"batch_size_per_image": batch_size_per_image}, {"positive_fraction": positive_fraction})
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction

    @property
    def max_positives(self) -> int:
        """The largest number of positives of an image."""
        return int(self.batch_size_per_image * self.positive_fraction)

    def __call__(
        self, positive: Tensor, negative: Tensor, priority: Tensor, images_per_row: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Sample among A candidates, which ``positive`` and ``negative`` (B, A) bool classify.

        Those with the highest ``priority`` (B, A) are chosen, random numbers in [0, 1) as of ``uniform``.

        Returns indices (B, S) int64, positives first, and valid (B, S), with S = min(``batch_size_per_image``, A). If a
        row holds the candidates of several images, as in R-CNN, the numbers are as many times larger.
        """
        num_samples = self.batch_size_per_image * images_per_row
        # The quota is a fraction of the requested number, as in torchvision, even if there are fewer candidates.
        quota = min(int(num_samples * self.positive_fraction), priority.shape[1])
        drawn = torch.zeros_like(positive)
        if quota > 0:
            # The quota-th highest priority among the positives, or -1 if there are fewer.
            threshold = torch.where(positive, priority, -1.0).topk(quota, dim=1).values[:, -1:]
            drawn = positive & (priority >= threshold)
        priority = torch.where(drawn, 1 + priority, torch.where(negative, priority, -1.0))
        value, indices = priority.topk(min(num_samples, priority.shape[1]), dim=1)
        return indices, value >= 0


def uniform(seeds: Tensor, index: Tensor, stream: int) -> Tensor:
    """Draw a number in [0, 1) for each of the ``seeds`` (B,) int64 and each ``index`` (A,): (B, A) float32.

    Without a state: the numbers are the same on any device and rank, and after a resume.

    The multiplications and shifts of a 32-bit integer hash (Wellons, "Prospecting for hash functions", 2018), with the
    seed in the place of its first round.
    """
    key = 2 * seeds + stream
    key = (key ^ (key >> 29)) * 0x2545F4914F6CDD1D
    key = ((key >> 32) & 0x7FFFFFFF).to(torch.int32)
    x = key[:, None] ^ (index.to(torch.int32) * -0x61C88647)
    x *= 0x7FEB352D
    x ^= (x >> 15) & 0x1FFFF
    x *= -0x7B935975
    x >>= 8
    x &= 0xFFFFFF
    return x * 2.0**-24
