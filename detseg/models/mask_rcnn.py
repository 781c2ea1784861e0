"""Mask R-CNN (He et al. 2017, arXiv:1703.06870), with a feature pyramid or on a single map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.errors import DataError
from detseg.models.faster_rcnn import FasterRCNN
from detseg.modules.backbones.backbone import Backbone
from detseg.modules.box_head import BoxHead, BoxPredictor, Res5Head
from detseg.modules.mask_head import MaskHead
from detseg.modules.postprocessor import Postprocessor
from detseg.modules.roi_heads import RoIHeads
from detseg.modules.roi_pooler import RoIPooler
from detseg.modules.rpn import RPN
from detseg.modules.target_assignment import BalancedSampler, Matcher
from detseg.ops.boxes import take
from detseg.structures import Instances, drop_padding

POOL_SIZE = 14  # bins on each side of the features that masks are predicted from (figure 4)


class MaskRCNNHeads(RoIHeads):
    """``RoIHeads`` with a mask head beside the box head.

    Over a pyramid the mask head has four convolutions of its own; behind a ``Res5Head`` it shares the maps of that
    conv5 (figure 4). Features come from RoIAlign, as the paper proposes; with ``RoIPool()`` its comparison of the two
    can be repeated (table 2c).
    """

    def __init__(
        self,
        pooler: RoIPooler | None = None,
        box_head: BoxHead | None = None,
        box_predictor: BoxPredictor | None = None,
        mask_head: MaskHead | None = None,
        matcher: Matcher | None = None,
        sampler: BalancedSampler | None = None,
        postprocessor: Postprocessor | None = None,
    ) -> None:
        super().__init__(pooler, box_head, box_predictor, matcher, sampler, postprocessor)
        self.mask_head = mask_head or MaskHead()

    def build(self, backbone: Backbone, num_classes: int) -> Self:
        super().build(backbone, num_classes)
        shared = isinstance(self.box_head, Res5Head)
        self.mask_head.build(self.box_head.channels if shared else backbone.channels[0], num_classes, shared)
        return self

    def forward(self, features: Sequence[Tensor], proposals: Instances, image_sizes: Tensor) -> Instances:
        """Detect objects as ``RoIHeads`` does, then predict the masks of the final boxes alone (section 3.1)."""
        detections = super().forward(features, proposals, image_sizes)
        trimmed = drop_padding(detections)
        masks = torch.unflatten(self.masks(features, trimmed).sigmoid(), 0, trimmed.valid.shape)
        masks = torch.where(trimmed.valid[..., None, None], masks, 0)
        empty = detections.valid.shape[1] - trimmed.valid.shape[1]
        return detections._replace(masks=F.pad(masks, (0, 0, 0, 0, 0, empty)))

    def loss(
        self, features: Sequence[Tensor], proposals: Instances, targets: Instances, seeds: Tensor
    ) -> dict[str, Tensor]:
        """Compute the losses of ``RoIHeads`` and that of the masks of the regions that are objects."""
        if targets.masks is None:
            raise DataError(
                "Mask R-CNN learns from masks, and none came with the boxes: build the data with masks='all'"
            )
        regions, matched = self.sample(proposals, targets, seeds)
        objects = self.foreground(regions)
        pooled = self.pooler(features, regions, self.strides, self.box_head.pool_size)
        if isinstance(self.box_head, Res5Head):  # which the objects pass with the other regions, and not again
            maps = self.box_head.maps(pooled)
            vectors = self.box_head.average(maps)
            of_objects = torch.unflatten(maps, 0, regions.valid.shape)[:, : objects.valid.shape[1]]
            masks = self.mask_head(of_objects.flatten(0, 1), class_of(objects))
        else:
            vectors = self.box_head(pooled)
            masks = self.masks(features, objects)
        logits, deltas = self.box_predictor(vectors)
        matched_objects = matched[:, : objects.valid.shape[1]]
        return {
            **self.box_predictor.loss(logits, deltas, regions, take(targets.boxes, matched)),
            **self.mask_head.loss(masks, objects, targets, matched_objects),
        }

    def masks(self, features: Sequence[Tensor], regions: Instances) -> Tensor:
        """Predict mask logits (B * R, size, size) of regions (B, R), each for the class of its label."""
        pooled = self.pooler(features, regions, self.strides, POOL_SIZE)
        if isinstance(self.box_head, Res5Head):
            pooled = self.box_head.maps(pooled)
        return self.mask_head(pooled, class_of(regions))  # type: ignore[no-any-return]

    def foreground(self, regions: Instances) -> Instances:
        """Return the sampled regions that are objects, which come first and of which there are few."""
        most = self.sampler.max_positives
        boxes, valid, labels = regions.boxes[:, :most], regions.valid[:, :most], regions.labels
        assert labels is not None
        return drop_padding(Instances(boxes, valid & (labels[:, :most] < self.num_classes), labels[:, :most]))


class MaskRCNN(FasterRCNN):
    """Faster R-CNN with heads that also predict the pixels of each object.

    It learns from ``batch.targets.masks``, the grids over the objects' boxes that ``ops.masks`` describes. Detections
    have ``masks`` (B, N, 28, 28), behind a ``Res5Head`` (B, N, 14, 14): probabilities of the detected class over the
    detected box.

    Raises as ``FasterRCNN`` does; ``loss`` also raises DataError if the targets have no masks.
    """

    needs_masks = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        rpn: RPN | None = None,
        roi_heads: MaskRCNNHeads | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__(backbone, num_classes, rpn, roi_heads or MaskRCNNHeads(), weights)


def class_of(regions: Instances) -> Tensor:
    """Return the labels (B * R,) of regions, 0 for padding."""
    assert regions.labels is not None
    return torch.where(regions.valid, regions.labels, 0).flatten()
