"""Faster R-CNN (Ren et al. 2015, arXiv:1506.01497), with a feature pyramid or on a single map."""

from __future__ import annotations

from torch import Tensor

from detseg.models.detector import Detector, seeds_of
from detseg.modules.backbones.backbone import Backbone
from detseg.modules.roi_heads import RoIHeads
from detseg.modules.rpn import RPN, Predictions
from detseg.structures import Batch, Instances
from detseg.weights.torchvision import load_weights


class FasterRCNN(Detector):
    """A region proposal network and Fast R-CNN heads over the same features.

    ``backbone`` is a pyramid, ``FPN(ResNet("resnet50"))``, or has a single map, ``ResNet("resnet50", stages=[4])``.
    ``num_classes`` counts the foreground classes. The RPN and the heads train at once, and no gradient passes through
    the proposals: approximate joint training (section 3.2). ``rpn`` and ``roi_heads`` have the papers' defaults, or
    where those differ, detectron2's and torchvision's. ``weights`` are those of the whole detector, such as
    ``torchvision:COCO_V1``: see ``load_weights``.

    Raises ValueError, naming it, if a part does not fit the backbone, and CheckpointError for weights that are not of
    this network.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        rpn: RPN | None = None,
        roi_heads: RoIHeads | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.rpn = (rpn or RPN()).build(backbone)
        self.roi_heads = (roi_heads or RoIHeads()).build(backbone, num_classes)
        self.init_args["roi_heads"] = self.roi_heads
        load_weights(self, weights)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone(batch.images, batch.image_sizes)
        return self._loss(batch, features, self.rpn(features, batch.images.shape[-2:]))

    def forward(self, images: Tensor, image_sizes: Tensor, proposals: Instances | None = None) -> Instances:
        features = self.backbone(images, image_sizes)
        if proposals is None:
            predictions = self.rpn(features, images.shape[-2:])
            proposals = self.rpn.propose(predictions, image_sizes, training=False)
        return self.roi_heads(features, proposals, image_sizes)  # type: ignore[no-any-return]

    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Instances]:
        features = self.backbone(batch.images, batch.image_sizes)
        predictions = self.rpn(features, batch.images.shape[-2:])
        proposals = self.rpn.propose(predictions, batch.image_sizes, training=False)
        return self._loss(batch, features, predictions), self.roi_heads(features, proposals, batch.image_sizes)

    def _loss(self, batch: Batch, features: list[Tensor], predictions: Predictions) -> dict[str, Tensor]:
        proposals = self.rpn.propose(predictions, batch.image_sizes, training=True)
        seeds = seeds_of(batch)
        roi_losses = self.roi_heads.loss(features, proposals, batch.targets, seeds)
        return {**self.rpn.loss(features, predictions, batch.targets, seeds), **roi_losses}
