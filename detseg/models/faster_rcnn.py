"""Faster R-CNN (Ren et al. 2015, arXiv:1506.01497), with a feature pyramid or on a single map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from detseg.models.detector import Detector, check
from detseg.modules.backbones.backbone import Backbone
from detseg.modules.box_head import (
    BoxHead,
    Pooling,
    RegionHead,
    TwoMLPHead,
    check_fit,
    pool_regions,
    sample_regions,
)
from detseg.modules.rpn import RPN, Predictions
from detseg.structures import Batch, Instances, drop_padding
from detseg.weights.torchvision import load_weights


class FasterRCNN(Detector):
    """A region proposal network and a Fast R-CNN head over the same features.

    ``backbone`` is a pyramid, ``FPN(ResNet("resnet50"))``, or has a single map, ``ResNet("resnet50", stages=[4])``.
    ``num_classes`` counts the foreground classes. ``head`` (default: two fully connected layers over 7 x 7 bins) must
    take ``backbone.channels`` maps. ``anchor_sizes`` are pixels, a list for each map; by default 8 times the stride on
    a pyramid (FPN, section 4.1) and 32 to 512 on a single map. The other defaults are the papers' values, or where
    those differ, detectron2's and torchvision's. Pairs of numbers are for training and for inference: boxes of each map
    that enter the suppression (``rpn_candidates``) and ``proposals`` that leave it. ``samples`` regions an image are
    drawn for training; of the ``candidates`` best (region, class) pairs ``detections`` an image leave the last
    suppression. ``weights`` are those of the whole detector, such as ``torchvision:COCO_V1``: see ``load_weights``.

    Raises ValueError, saying what, if the backbone's maps, the head and the anchors do not fit together, and
    CheckpointError for weights that are not of this network.
    """

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
        weights: str | None = None,
    ) -> None:
        super().__init__()
        levels = len(backbone.strides)
        if anchor_sizes is None:
            anchor_sizes = [[8 * s] for s in backbone.strides] if levels > 1 else [[32, 64, 128, 256, 512]]
        head = head or TwoMLPHead(backbone.channels[0])
        self.init_args["head"] = head  # for the recipe: it may be truncated later
        check_fit(backbone, head)
        _check_anchors(backbone, anchor_sizes)
        counts = {"samples": samples, "candidates": candidates, "detections": detections, "proposals": min(proposals)}
        counts |= {"rpn_samples": rpn_samples, "rpn_depth": rpn_depth, "rpn_candidates": min(rpn_candidates)}
        shares = {"iou": iou, "positive_fraction": positive_fraction, "score_threshold": score_threshold, "nms": nms}
        shares |= {"rpn_positive_fraction": rpn_positive_fraction, "rpn_nms": rpn_nms}
        check(counts, shares)

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
        self.pooling = pooling
        self.strides = backbone.strides[
            : levels - backbone.num_rpn_only_levels
        ]  # P6 is for anchors alone (FPN, section 4.2)
        self.rpn_candidates, self.proposals = rpn_candidates, proposals
        self.iou, self.samples, self.positive_fraction = iou, samples, positive_fraction
        self.score_threshold, self.nms = score_threshold, nms
        self.candidates, self.detections = candidates, detections
        load_weights(self, weights)

    def pool(self, features: list[Tensor], regions: Instances) -> Tensor:
        return pool_regions(features, regions, self.strides, self.box_head.body.size, self.pooling)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone(batch.images, batch.image_sizes)
        return self._loss(batch, features, self.rpn.survey(features, batch.images.shape[-2:]))

    def forward(self, images: Tensor, sizes: Tensor, proposals: Instances | None = None) -> Instances:
        features = self.backbone(images, sizes)
        if proposals is None:
            predictions = self.rpn.survey(features, images.shape[-2:])
            proposals = self.rpn.propose(predictions, sizes, self.rpn_candidates[1], self.proposals[1])
        return self._detect(features, proposals, sizes)

    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Instances]:
        features = self.backbone(batch.images, batch.image_sizes)
        predictions = self.rpn.survey(features, batch.images.shape[-2:])
        proposals = self.rpn.propose(predictions, batch.image_sizes, self.rpn_candidates[1], self.proposals[1])
        return self._loss(batch, features, predictions), self._detect(features, proposals, batch.image_sizes)

    def _loss(self, batch: Batch, features: list[Tensor], predictions: Predictions) -> dict[str, Tensor]:
        proposals = self.rpn.propose(predictions, batch.image_sizes, self.rpn_candidates[0], self.proposals[0])
        regions, truth, _ = sample_regions(
            proposals, batch.targets, self.num_classes, self.iou, 0.0, self.samples, self.positive_fraction
        )
        logits, deltas = self.box_head(self.pool(features, regions))
        return {
            **self.rpn.loss(predictions, batch.targets, features),
            **self.box_head.loss(logits, deltas, regions, truth),
        }

    def _detect(self, features: list[Tensor], proposals: Instances, sizes: Tensor) -> Instances:
        proposals = drop_padding(proposals)
        logits, deltas = self.box_head(self.pool(features, proposals))
        return self.box_head.detect(
            logits, deltas, proposals, sizes, self.score_threshold, self.nms, self.candidates, self.detections
        )


def _check_anchors(backbone: Backbone, anchor_sizes: Sequence[Sequence[float]]) -> None:
    """Raise ValueError, saying what, unless there is a list of sizes for each map, all equally long."""
    if len(anchor_sizes) != len(backbone.strides):
        raise ValueError(f"anchor_sizes has {len(anchor_sizes)} lists, but the backbone {len(backbone.strides)} maps")
    if len({len(sizes) for sizes in anchor_sizes}) > 1:
        raise ValueError(f"anchor_sizes {[list(sizes) for sizes in anchor_sizes]}: every map needs the same number")
