"""From scores and deltas of regions to the detections of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detseg.configurable import Configurable
from detseg.kernels import nms
from detseg.modules.part import check_ranges
from detseg.ops import boxes as box_ops
from detseg.structures import Instances

MIN_SIDE = 1e-2  # pixels; a detection that clipping made narrower lies outside the image


class Postprocessor(Configurable):
    """Select detections: the ``topk_candidates`` best (region, class) pairs of an image go into NMS within each class.

    NMS is that of Fast R-CNN (section 3). Pairs must have a score above ``score_threshold``; the best
    ``detections_per_image`` remain.
    """

    def __init__(
        self,
        nms_threshold: float,
        score_threshold: float = 0.05,
        topk_candidates: int = 2000,
        detections_per_image: int = 100,
    ) -> None:
        check_ranges(
            {"topk_candidates": topk_candidates, "detections_per_image": detections_per_image},
            {"nms_threshold": nms_threshold, "score_threshold": score_threshold},
        )
        self.nms_threshold, self.score_threshold = nms_threshold, score_threshold
        self.topk_candidates, self.detections_per_image = topk_candidates, detections_per_image

    def __call__(
        self, scores: Tensor, deltas: Tensor, regions: Instances, image_sizes: Tensor, delta_weights: Sequence[float]
    ) -> Instances:
        """Return detections, best first, from ``scores`` (B, R, K) and ``deltas`` (B, R, K, 4) of each class.

        ``delta_weights`` are those of ``ops.boxes.decode``. Boxes are clipped to ``image_sizes`` (B, 2).
        """
        scores = torch.where(regions.valid[..., None], scores, 0)
        scores, region, labels = self.top_candidates(scores)
        deltas = box_ops.take(deltas.flatten(1, 2), region * deltas.shape[2] + labels)
        boxes = box_ops.decode(deltas, box_ops.take(regions.boxes, region), delta_weights)
        return self.suppress(boxes, scores, labels, image_sizes)

    def top_candidates(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best of ``scores`` (B, R, K), and their regions and labels; all (B, topk_candidates) at most."""
        num_classes = scores.shape[2]
        scores = scores.flatten(1)
        scores, pair = scores.topk(min(self.topk_candidates, scores.shape[1]), dim=1)
        return scores, pair // num_classes, pair % num_classes

    def suppress(self, boxes: Tensor, scores: Tensor, labels: Tensor, image_sizes: Tensor) -> Instances:
        """Clip ``boxes`` (B, N, 4), and keep those above the score threshold that NMS leaves of each class."""
        boxes = box_ops.clip(boxes, image_sizes)
        valid = ((boxes[..., 2:] - boxes[..., :2]) >= MIN_SIDE).all(dim=-1) & (scores > self.score_threshold)
        kept, valid = nms(boxes, scores, labels, valid, self.nms_threshold, self.detections_per_image)
        return Instances(
            torch.where(valid[..., None], box_ops.take(boxes, kept), 0),
            valid,
            labels.gather(1, kept),
            torch.where(valid, scores.gather(1, kept), 0),
        )
