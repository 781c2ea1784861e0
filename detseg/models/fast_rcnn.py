"""Fast R-CNN (Girshick 2015, arXiv:1504.08083), on a single map or with a feature pyramid."""

from __future__ import annotations

from torch import Tensor

from detseg.models.detector import Detector, check, require_proposals
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
from detseg.structures import Batch, Instances, drop_padding

BETA = 1.0  # of smooth L1 (equation 3)


class FastRCNN(Detector):
    """Classes and boxes for proposals that come with the images, from features that are computed once an image.

    ``backbone`` has a single map, ``VGG("vgg16", stages=[4])``, or is a pyramid, ``FPN(ResNet("resnet50"))``.
    ``num_classes`` counts the foreground classes. ``head`` (default: two fully connected layers over 7 x 7 bins) must
    take ``backbone.channels`` maps; the paper's is ``ClassifierHead(VGG("vgg16", weights=...))``. The other defaults
    are the paper's values: of the proposals and the ground truth of an image ``samples`` regions are drawn for
    training, at most ``positive_fraction`` of them objects, at IoU >= ``iou``, and the rest background, at IoU in
    [``background_iou``, ``iou``) (section 2.3). Of the ``candidates`` best (region, class) pairs ``detections`` an
    image leave the suppression.

    Raises ValueError, saying what, if the backbone's maps and the head do not fit together; its methods DataError if
    there are no proposals.
    """

    needs_proposals = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        head: RegionHead | None = None,
        pooling: Pooling = "roi_pool",
        iou: float = 0.5,
        background_iou: float = 0.1,
        samples: int = 64,
        positive_fraction: float = 0.25,
        score_threshold: float = 0.05,
        nms: float = 0.3,
        candidates: int = 2000,
        detections: int = 100,
    ) -> None:
        super().__init__()
        head = head or TwoMLPHead(backbone.channels[0])
        self.init_args["head"] = head  # for the recipe: it may be truncated later
        check_fit(backbone, head)
        shares = {"iou": iou, "positive_fraction": positive_fraction, "score_threshold": score_threshold, "nms": nms}
        check({"samples": samples, "candidates": candidates, "detections": detections}, shares)
        if not 0 <= background_iou <= iou:
            raise ValueError(f"background_iou is {background_iou}, and must be between 0 and iou, {iou}")

        self.num_classes = num_classes
        self.backbone = backbone
        self.box_head = BoxHead(head, num_classes)
        self.pooling = pooling
        self.strides = backbone.strides[: len(backbone.strides) - backbone.num_rpn_only_levels]
        self.iou, self.background_iou = iou, background_iou
        self.samples, self.positive_fraction = samples, positive_fraction
        self.score_threshold, self.nms = score_threshold, nms
        self.candidates, self.detections = candidates, detections

    def pool(self, features: list[Tensor], regions: Instances) -> Tensor:
        return pool_regions(features, regions, self.strides, self.box_head.body.size, self.pooling)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return self._loss(batch, self.backbone(batch.images, batch.image_sizes))

    def forward(self, images: Tensor, sizes: Tensor, proposals: Instances | None = None) -> Instances:
        return self._detect(self.backbone(images, sizes), proposals, sizes)

    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Instances]:
        features = self.backbone(batch.images, batch.image_sizes)
        return self._loss(batch, features), self._detect(features, batch.proposals, batch.image_sizes)

    def _loss(self, batch: Batch, features: list[Tensor]) -> dict[str, Tensor]:
        regions, truth, _ = sample_regions(
            require_proposals(batch.proposals, "Fast R-CNN"),
            batch.targets,
            self.num_classes,
            self.iou,
            self.background_iou,
            self.samples,
            self.positive_fraction,
        )
        logits, deltas = self.box_head(self.pool(features, regions))
        return self.box_head.loss(logits, deltas, regions, truth, BETA)

    def _detect(self, features: list[Tensor], proposals: Instances | None, sizes: Tensor) -> Instances:
        regions = drop_padding(require_proposals(proposals, "Fast R-CNN"))
        logits, deltas = self.box_head(self.pool(features, regions))
        return self.box_head.detect(
            logits, deltas, regions, sizes, self.score_threshold, self.nms, self.candidates, self.detections
        )
