"""Mask R-CNN (He et al. 2017, arXiv:1703.06870), with a feature pyramid or on a single map."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.errors import DataError
from detseg.models.detector import check
from detseg.models.faster_rcnn import FasterRCNN
from detseg.modules.backbones.backbone import Backbone
from detseg.modules.backbones.norm import Norm
from detseg.modules.box_head import RegionHead, Res5Head, pool_regions, sample_regions
from detseg.modules.mask_head import MaskHead
from detseg.modules.rpn import Predictions
from detseg.structures import Batch, Instances, drop_padding
from detseg.weights.torchvision import load_weights

BINS = 14  # of a region's features on each side, from which the mask is made (figure 4)


class MaskRCNN(FasterRCNN):
    """Faster R-CNN, and beside its box head one that says which pixels of a region belong to the object.

    ``settings`` are the other arguments of ``FasterRCNN``. Over a pyramid the mask head has four convolutions of its
    own, with ``mask_norm`` after each (the paper has none); with a ``Res5Head`` it shares that conv5, as in figure 4.
    The features of regions come from RoIAlign, as the paper proposes; with ``pooling="roi_pool"`` its comparison with
    RoIPool can be repeated (table 2c).

    It learns from ``batch.targets.masks``, the grids over the objects' boxes that ``ops.masks`` describes, and its
    detections have ``masks`` (B, N, 28, 28), of a ``Res5Head`` (B, N, 14, 14): probabilities of the class that was
    found, over the detected box.

    Raises as ``FasterRCNN`` does; its losses DataError if the targets have no masks.
    """

    needs_masks = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        head: RegionHead | None = None,
        mask_channels: int = 256,
        mask_norm: Norm | None = None,
        weights: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(backbone=backbone, num_classes=num_classes, head=head, weights=None, **settings)
        check({"mask_channels": mask_channels}, {})
        body = self.box_head.body
        width, convs = (body.channels, 0) if isinstance(body, Res5Head) else (backbone.channels[0], 4)
        self.mask_head = MaskHead(width, num_classes, convs, mask_channels, mask_norm)
        load_weights(self, weights)

    def masks(self, features: list[Tensor], regions: Instances) -> Tensor:
        """Logits of the masks of regions (B, R), each for the class of its label, (B * R, size, size)."""
        pooled = pool_regions(features, regions, self.strides, BINS, self.pooling)
        if isinstance(self.box_head.body, Res5Head):
            pooled = self.box_head.body.maps(pooled)
        return self._masks(pooled, regions)

    def _masks(self, maps: Tensor, regions: Instances) -> Tensor:
        """What ``masks`` gives, of ``maps`` (B * R, C, side, side) that are the input of the mask head."""
        assert regions.labels is not None
        labels = torch.where(regions.valid, regions.labels, 0).flatten()
        return self.mask_head(maps, labels)  # type: ignore[no-any-return]

    def _loss(self, batch: Batch, features: list[Tensor], predictions: Predictions) -> dict[str, Tensor]:
        if batch.targets.masks is None:
            raise DataError(
                "Mask R-CNN learns from masks, and none came with the boxes: build the data with masks='all'"
            )
        proposals = self.rpn.propose(predictions, batch.image_sizes, self.rpn_candidates[0], self.proposals[0])
        regions, truth, matched = sample_regions(
            proposals, batch.targets, self.num_classes, self.iou, 0.0, self.samples, self.positive_fraction
        )
        objects, matched = self._objects(regions, matched)
        pooled, body = self.pool(features, regions), self.box_head.body
        if isinstance(body, Res5Head):  # which the objects pass with the other regions, and not again
            maps = body.maps(pooled)
            logits, deltas = self.box_head.judge(body.average(maps))
            of_objects = maps.view(*regions.valid.shape, *maps.shape[1:])[:, : objects.valid.shape[1]]
            masks = self._masks(of_objects.flatten(0, 1), objects)
        else:
            logits, deltas = self.box_head(pooled)
            masks = self.masks(features, objects)
        return {
            **self.rpn.loss(predictions, batch.targets, features),
            **self.box_head.loss(logits, deltas, regions, truth),
            **self.mask_head.loss(masks, objects, batch.targets, matched),
        }

    def _objects(self, regions: Instances, matched: Tensor) -> tuple[Instances, Tensor]:
        """The regions that are objects, which come first and of which there are few, and what they belong to."""
        most = int(self.samples * self.positive_fraction)
        boxes, valid, labels = regions.boxes[:, :most], regions.valid[:, :most], regions.labels
        assert labels is not None
        objects = drop_padding(Instances(boxes, valid & (labels[:, :most] < self.num_classes), labels[:, :most]))
        return objects, matched[:, : objects.valid.shape[1]]

    def _detect(self, features: list[Tensor], proposals: Instances, sizes: Tensor) -> Instances:
        found = super()._detect(features, proposals, sizes)
        # The masks of the final boxes alone (section 3.1, inference).
        trimmed = drop_padding(found)
        masks = self.masks(features, trimmed).sigmoid()
        masks = torch.where(trimmed.valid[..., None, None], masks.view(*trimmed.valid.shape, *masks.shape[1:]), 0)
        empty = found.valid.shape[1] - trimmed.valid.shape[1]
        return found._replace(masks=F.pad(masks, (0, 0, 0, 0, 0, empty)))
