"""Fast R-CNN (Girshick 2015, arXiv:1504.08083), on a single map or with a feature pyramid."""

from __future__ import annotations

from torch import Tensor

from detseg.models.detector import Detector, require_proposals, seeds_of
from detseg.modules.backbones.backbone import Backbone
from detseg.modules.box_head import BoxHead, BoxPredictor
from detseg.modules.postprocessor import Postprocessor
from detseg.modules.roi_heads import RoIHeads
from detseg.modules.roi_pooler import RoIPool, RoIPooler
from detseg.modules.target_assignment import BalancedSampler, Matcher
from detseg.structures import Batch, Instances


class FastRCNNHeads(RoIHeads):
    """``RoIHeads`` with the paper's defaults.

    RoIPool; 64 regions of an image for training, a quarter of them objects, the rest background at IoU in [0.1, 0.5)
    (section 2.3); smooth L1 with beta 1 (equation 3); NMS at 0.3, as in the original implementation. Give ``box_head``
    ``ClassifierHead(VGG("vgg16", weights=...))`` for the layers of the paper.
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
        super().__init__(
            pooler or RoIPool(),
            box_head,
            box_predictor or BoxPredictor(smooth_l1_beta=1.0),
            matcher or Matcher(0.5, 0.5, allow_low_quality_matches=False, min_bg_iou=0.1),
            sampler or BalancedSampler(64, 0.25),
            postprocessor or Postprocessor(nms_threshold=0.3),
        )


class FastRCNN(Detector):
    """Classify and refine proposals that come with the images, from features that are computed once for an image.

    ``backbone`` has a single map, ``VGG("vgg16", stages=[4])``, or is a pyramid, ``FPN(ResNet("resnet50"))``.
    ``num_classes`` counts the foreground classes.

    Raises ValueError, naming it, if a part does not fit the backbone; its methods DataError without proposals.
    """

    needs_proposals = True

    def __init__(self, backbone: Backbone, num_classes: int, roi_heads: FastRCNNHeads | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.roi_heads = (roi_heads or FastRCNNHeads()).build(backbone, num_classes)
        self.init_args["roi_heads"] = self.roi_heads

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        proposals = require_proposals(batch.proposals, "Fast R-CNN")
        features = self.backbone(batch.images, batch.image_sizes)
        return self.roi_heads.loss(features, proposals, batch.targets, seeds_of(batch))

    def forward(self, images: Tensor, image_sizes: Tensor, proposals: Instances | None = None) -> Instances:
        proposals = require_proposals(proposals, "Fast R-CNN")
        return self.roi_heads(self.backbone(images, image_sizes), proposals, image_sizes)  # type: ignore[no-any-return]

    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Instances]:
        proposals = require_proposals(batch.proposals, "Fast R-CNN")
        features = self.backbone(batch.images, batch.image_sizes)
        losses = self.roi_heads.loss(features, proposals, batch.targets, seeds_of(batch))
        return losses, self.roi_heads(features, proposals, batch.image_sizes)
