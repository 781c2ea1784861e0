"""Mask R-CNN (He et al. 2017, arXiv:1703.06870), with a feature pyramid or on a single map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.errors import DataError
from detseg.models.detector import Detector, check
from detseg.models.faster_rcnn import check_anchors
from detseg.models.weights import load_weights
from detseg.modules.backbones.backbone import Backbone
from detseg.modules.backbones.norm import Norm
from detseg.modules.box_head import (
    BoxHead,
    Conv5Head,
    Pooling,
    RegionHead,
    TwoFCHead,
    check_fit,
    pool_regions,
    sample_regions,
)
from detseg.modules.mask_head import MaskHead
from detseg.modules.rpn import RPN, Predictions
from detseg.structures import Batch, Instances, trim

BINS = 14  # of a region's features on each side, from which the mask is made (figure 4)


class MaskRCNN(Detector):
    """Faster R-CNN, and beside its box head one that says which pixels of a region belong to the object.

    The arguments are those of ``FasterRCNN``. Over a pyramid the mask head has four convolutions of its own, with
    ``mask_norm`` after each (the paper has none); with a ``Conv5Head`` it shares that conv5, as in figure 4.
    ``pooling`` is RoIAlign, as the paper proposes; with "roi_pool" its comparison with RoIPool can be repeated
    (table 2c).

    It learns from ``batch.targets.masks``, the grids over the objects' boxes that ``ops.masks`` describes, and its
    detections have ``masks`` (B, N, 28, 28): probabilities of the class that was found, over the detected box.

    Raises ValueError, saying what, if the backbone's maps, the head and the anchors do not fit together, and
    CheckpointError for weights that are not of this network; its losses DataError if the targets have no masks.
    """

    needs_masks = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        head: RegionHead | None = None,
        pooling: Pooling = "roi_align",
        anchor_sizes: Sequence[Sequence[float]] | None = None,
        anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        rpn_iou: tuple[float, float] = (0.3, 0.7),
        rpn_samples: int = 256,
        rpn_positive_fraction: float = 0.5,
        rpn_nms: float = 0.7,
        rpn_depth: int = 1,
        rpn_score_threshold: float = 0.0,
        rpn_candidates: tuple[int, int] = (2000, 1000),
        proposals: tuple[int, int] = (2000, 1000),
        iou: float = 0.5,
        samples: int = 512,
        positive_fraction: float = 0.25,
        score_threshold: float = 0.05,
        nms: float = 0.5,
        candidates: int = 2000,
        detections: int = 100,
        mask_channels: int = 256,
        mask_norm: Norm | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        levels = len(backbone.strides)
        if anchor_sizes is None:
            anchor_sizes = [[8 * s] for s in backbone.strides] if levels > 1 else [[32, 64, 128, 256, 512]]
        head = head or TwoFCHead(backbone.channels[0])
        self.arguments["head"] = head  # for the recipe: it may be truncated later
        check_fit(backbone, head)
        check_anchors(backbone, anchor_sizes)
        counts = {"rpn_samples": rpn_samples, "samples": samples, "candidates": candidates, "detections": detections}
        counts |= {"mask_channels": mask_channels, "rpn_depth": rpn_depth}
        shares = {"iou": iou, "positive_fraction": positive_fraction, "score_threshold": score_threshold, "nms": nms}
        shares |= {"rpn_positive_fraction": rpn_positive_fraction, "rpn_nms": rpn_nms}
        check({**counts, "rpn_candidates": min(rpn_candidates), "proposals": min(proposals)}, shares)

        self.num_classes = num_classes
        self.backbone = backbone
        self.rpn = RPN(
            backbone.channels[0],
            anchor_sizes,
            anchor_ratios,
            high=rpn_iou[1],
            low=rpn_iou[0],
            samples=rpn_samples,
            positive_fraction=rpn_positive_fraction,
            nms=rpn_nms,
            depth=rpn_depth,
            score_threshold=rpn_score_threshold,
        )
        self.box_head = BoxHead(head, num_classes)
        shared = isinstance(head, Conv5Head)
        width, convs = (head.channels, 0) if shared else (backbone.channels[0], 4)
        self.mask_head = MaskHead(width, num_classes, convs, mask_channels, mask_norm)
        self.pooling = pooling
        self.strides = backbone.strides[: levels - backbone.extra]  # P6 is for anchors alone (FPN, section 4.2)
        self.rpn_candidates, self.proposals = rpn_candidates, proposals
        self.iou, self.samples, self.positive_fraction = iou, samples, positive_fraction
        self.score_threshold, self.nms = score_threshold, nms
        self.candidates, self.detections = candidates, detections
        load_weights(self, weights)

    def pool(self, features: list[Tensor], regions: Instances) -> Tensor:
        return pool_regions(features, regions, self.strides, self.box_head.body.size, self.pooling)

    def masks(self, features: list[Tensor], regions: Instances) -> Tensor:
        """Logits of the masks of regions (B, R), each for the class of its label, (B * R, size, size)."""
        assert regions.labels is not None
        labels = torch.where(regions.valid, regions.labels, 0).flatten()
        pooled = pool_regions(features, regions, self.strides, BINS, self.pooling)
        if isinstance(self.box_head.body, Conv5Head):
            pooled = self.box_head.body.maps(pooled)
        return self.mask_head(pooled, labels)  # type: ignore[no-any-return]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone(batch.images, batch.sizes)
        return self._loss(batch, features, self.rpn.survey(features, batch.images.shape[-2:]))

    def forward(self, images: Tensor, sizes: Tensor, proposals: Instances | None = None) -> Instances:
        features = self.backbone(images, sizes)
        if proposals is None:
            predictions = self.rpn.survey(features, images.shape[-2:])
            proposals = self.rpn.propose(predictions, sizes, self.rpn_candidates[1], self.proposals[1])
        return self._detect(features, proposals, sizes)

    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Instances]:
        features = self.backbone(batch.images, batch.sizes)
        predictions = self.rpn.survey(features, batch.images.shape[-2:])
        proposals = self.rpn.propose(predictions, batch.sizes, self.rpn_candidates[1], self.proposals[1])
        return self._loss(batch, features, predictions), self._detect(features, proposals, batch.sizes)

    def _loss(self, batch: Batch, features: list[Tensor], predictions: Predictions) -> dict[str, Tensor]:
        if batch.targets.masks is None:
            raise DataError(
                "Mask R-CNN learns from masks, and none came with the boxes: build the data with masks='all'"
            )
        proposals = self.rpn.propose(predictions, batch.sizes, self.rpn_candidates[0], self.proposals[0])
        regions, truth, matched = sample_regions(
            proposals, batch.targets, self.num_classes, self.iou, 0.0, self.samples, self.positive_fraction
        )
        logits, deltas = self.box_head(self.pool(features, regions))
        objects, matched = self._objects(regions, matched)
        return {
            **self.rpn.loss(predictions, batch.targets, features),
            **self.box_head.loss(logits, deltas, regions, truth),
            **self.mask_head.loss(self.masks(features, objects), objects, batch.targets, matched),
        }

    def _objects(self, regions: Instances, matched: Tensor) -> tuple[Instances, Tensor]:
        """The regions that are objects, which come first and of which there are few, and what they belong to."""
        most = int(self.samples * self.positive_fraction)
        boxes, valid, labels = regions.boxes[:, :most], regions.valid[:, :most], regions.labels
        assert labels is not None
        objects = trim(Instances(boxes, valid & (labels[:, :most] < self.num_classes), labels[:, :most]))
        return objects, matched[:, : objects.valid.shape[1]]

    def _detect(self, features: list[Tensor], proposals: Instances, sizes: Tensor) -> Instances:
        proposals = trim(proposals)
        logits, deltas = self.box_head(self.pool(features, proposals))
        found = self.box_head.detect(
            logits, deltas, proposals, sizes, self.score_threshold, self.nms, self.candidates, self.detections
        )
        # The masks of the final boxes alone (section 3.1, inference).
        trimmed = trim(found)
        masks = self.masks(features, trimmed).sigmoid()
        masks = torch.where(trimmed.valid[..., None, None], masks.view(*trimmed.valid.shape, *masks.shape[1:]), 0)
        empty = found.valid.shape[1] - trimmed.valid.shape[1]
        return found._replace(masks=F.pad(masks, (0, 0, 0, 0, 0, empty)))
