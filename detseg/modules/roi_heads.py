"""Classes and boxes of regions: sampling, pooling, head, loss and detections (Fast R-CNN, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn

from detseg.configurable import Configurable
from detseg.modules.backbones.backbone import Backbone
from detseg.modules.box_head import BoxHead, BoxPredictor, TwoMLPHead
from detseg.modules.postprocessor import Postprocessor
from detseg.modules.roi_pooler import RoIAlign, RoIPooler
from detseg.modules.target_assignment import NEGATIVE, POSITIVE, REGIONS, BalancedSampler, Matcher, uniform
from detseg.ops import boxes as box_ops
from detseg.structures import Instances, drop_padding


class RoIHeads(nn.Module, Configurable):
    """Classify regions and refine their boxes, from features that are computed once for an image.

    The defaults are those of Faster R-CNN with a feature pyramid: RoIAlign to 7 x 7 bins and two fully connected
    layers. Regions are objects at IoU 0.5; 512 an image are sampled for the loss, a quarter of them objects.
    """

    def __init__(
        self,
        pooler: RoIPooler | None = None,
        box_head: BoxHead | None = None,
        box_predictor: BoxPredictor | None = None,
        matcher: Matcher | None = None,
        sampler: BalancedSampler | None = None,
        postprocessor: Postprocessor | None = None,
    ) -> None:
        super().__init__()
        self.pooler = pooler or RoIAlign()
        self.box_head = box_head or TwoMLPHead()
        self.box_predictor = box_predictor or BoxPredictor()
        self.matcher = matcher or Matcher(0.5, 0.5, allow_low_quality_matches=False)
        self.sampler = sampler or BalancedSampler(512, 0.25)
        self.postprocessor = postprocessor or Postprocessor(nms_threshold=0.5)
        self.init_args["box_head"] = self.box_head  # for checkpoints: ``svd_compress`` may change it later

    def build(self, backbone: Backbone, num_classes: int) -> Self:
        """Create the layers for the maps of ``backbone``.

        Raises ValueError if regions cannot be pooled from these maps, or the parts do not fit them.
        """
        self.strides = backbone.strides[
            : len(backbone.strides) - backbone.num_rpn_only_levels
        ]  # without P6 (FPN, section 4.1, footnote)
        if len(set(backbone.channels)) > 1:
            raise ValueError(
                f"the backbone's maps have {backbone.channels} channels: put it under an FPN, or take one stage"
            )
        if any(coarse != 2 * fine for fine, coarse in pairwise(self.strides)):
            raise ValueError(f"the backbone's maps have strides {self.strides}; each must be twice the one before")
        self.num_classes = num_classes
        self.box_head.build(backbone.channels[0])
        self.box_predictor.build(self.box_head.channels, num_classes)
        return self

    def forward(self, features: Sequence[Tensor], proposals: Instances, image_sizes: Tensor) -> Instances:
        """Detect objects in ``proposals`` (B, R), best first; boxes are clipped to ``image_sizes`` (B, 2)."""
        proposals = drop_padding(proposals)
        pooled = self.pooler(features, proposals, self.strides, self.box_head.pool_size)
        logits, deltas = self.box_predictor(self.box_head(pooled))
        scores = torch.unflatten(self.box_predictor.scores(logits), 0, proposals.valid.shape)
        deltas = torch.unflatten(deltas, 0, proposals.valid.shape)
        return self.postprocessor(scores, deltas, proposals, image_sizes, self.box_predictor.delta_weights)

    def loss(
        self, features: Sequence[Tensor], proposals: Instances, targets: Instances, seeds: Tensor
    ) -> dict[str, Tensor]:
        """Compute the loss of regions that are sampled from ``proposals`` and ``targets``, as ``sample`` does."""
        regions, matched = self.sample(proposals, targets, seeds)
        pooled = self.pooler(features, regions, self.strides, self.box_head.pool_size)
        logits, deltas = self.box_predictor(self.box_head(pooled))
        return self.box_predictor.loss(logits, deltas, regions, box_ops.take(targets.boxes, matched))

    def sample(self, proposals: Instances, targets: Instances, seeds: Tensor) -> tuple[Instances, Tensor]:
        """Sample regions to learn from; the ``seeds`` (B,) of the images determine the sample.

        Returns labelled regions (B, S), ``num_classes`` being the background, objects first; and the target (B, S) that
        each shows, meaningful for objects.
        """
        regions, matched, match_labels, priority = label_regions(
            proposals, targets, self.num_classes, self.matcher, seeds
        )
        assert regions.labels is not None
        positive, negative = ((match_labels == label) & regions.valid for label in (POSITIVE, NEGATIVE))
        sampled, valid = self.sampler(positive, negative, priority)
        boxes = box_ops.take(regions.boxes, sampled)
        return Instances(boxes, valid, regions.labels.gather(1, sampled)), matched.gather(1, sampled)


def label_regions(
    proposals: Instances, targets: Instances, num_classes: int, matcher: Matcher, seeds: Tensor
) -> tuple[Instances, Tensor, Tensor, Tensor]:
    """Label each proposal with the class of the object that it matches, or ``num_classes`` for the background.

    The ground truth is among the regions, so that there are objects to learn from while proposals are still poor, as in
    the original implementations.

    Returns labelled regions (B, R), the target (B, R) that each overlaps most, the match labels (B, R), and random
    numbers (B, R) from the ``seeds`` (B,) of the images, by which regions are sampled. These do not depend on the
    padding: the positions of proposals count up from 0, those of targets down from -1.
    """
    boxes = torch.cat([proposals.boxes, targets.boxes], dim=1)
    valid = torch.cat([proposals.valid, targets.valid], dim=1)
    matched, match_labels = matcher(box_ops.iou(targets.boxes, boxes), targets.valid)
    assert targets.labels is not None
    labels = torch.where(match_labels == POSITIVE, targets.labels.gather(1, matched), num_classes)
    up, down = (torch.arange(each.valid.shape[1], device=seeds.device) for each in (proposals, targets))
    priority = uniform(seeds, torch.cat([up, -1 - down]), REGIONS)
    return Instances(boxes, valid, labels), matched, match_labels, priority
