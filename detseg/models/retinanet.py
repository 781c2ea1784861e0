"""RetinaNet (Lin et al. 2017, arXiv:1708.02002): one stage, and a loss for its many easy negatives."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from detseg.models.detector import Detector
from detseg.modules.anchor_generator import AnchorGenerator
from detseg.modules.backbones.backbone import Backbone
from detseg.modules.fpn import FPN
from detseg.modules.postprocessor import Postprocessor
from detseg.modules.retina_head import RetinaHead
from detseg.modules.target_assignment import IGNORED, POSITIVE, Matcher
from detseg.ops import boxes as box_ops
from detseg.structures import Batch, Instances
from detseg.weights.torchvision import load_weights

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss (section 5.1)


class RetinaFPN(FPN):
    """A pyramid with two more levels, each a convolution of stride 2 (section 4, footnote 2).

    P6 comes from the last map of ``backbone``, or from P5 with ``p6_from_p5``; P7 from P6. For ``backbone`` take
    ``ResNet("resnet50", stages=[3, 4, 5])``: P2 is left out.
    """

    def __init__(self, backbone: Backbone, channels: int = 256, p6_from_p5: bool = False) -> None:
        super().__init__(backbone, channels)
        self.p6_from_p5 = p6_from_p5
        self.p6 = nn.Conv2d(channels if p6_from_p5 else backbone.channels[-1], channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        for layer in (self.p6, self.p7):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        last = backbone.strides[-1]
        self.channels = [channels] * (len(backbone.channels) + 2)
        self.strides = [*backbone.strides, 2 * last, 4 * last]
        self.num_rpn_only_levels = 0

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> list[Tensor]:
        bottom_up = self.backbone(images, image_sizes)
        features = self.fuse(bottom_up)
        p6 = self.p6(features[-1] if self.p6_from_p5 else bottom_up[-1])
        return [*features, p6, self.p7(F.relu(p6))]


class Predictions(NamedTuple):
    """Predictions for the A anchors of all levels, finest first."""

    logits: Tensor  # (B, A, K)
    deltas: Tensor  # (B, A, 4)
    anchors: Tensor  # (A, 4)
    num_anchors_per_level: list[int]


class RetinaNet(Detector):
    """Classify and refine every anchor of a pyramid.

    ``backbone`` is a pyramid such as ``RetinaFPN(ResNet("resnet50", stages=[3, 4, 5]))``; ``num_classes`` counts the
    foreground classes. By default anchors have 3 scales an octave and 3 shapes, 4 times the stride and larger, match at
    IoU 0.5, and are background below 0.4 (section 4). Three defaults are torchvision's, not the paper's: the best
    anchors of each object match at any IoU (as in detectron2), the box loss is L1, and an image has up to 300
    detections. ``topk_candidates`` of ``postprocessor`` counts the pairs of each level. ``weights`` are those of the
    whole detector, a file: see ``load_weights``.

    Raises ValueError, naming it, if a part does not fit the backbone, and CheckpointError for weights that are not of
    this network.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        anchor_generator: AnchorGenerator | None = None,
        head: RetinaHead | None = None,
        matcher: Matcher | None = None,
        postprocessor: Postprocessor | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        octave = [[int(4 * stride * 2 ** (scale / 3)) for scale in range(3)] for stride in backbone.strides]
        self.anchor_generator = (anchor_generator or AnchorGenerator(octave)).build(backbone.strides)
        num_anchors_per_cell = self.anchor_generator.num_anchors_per_cell
        self.head = (head or RetinaHead()).build(backbone.channels[0], num_anchors_per_cell, num_classes)
        self.matcher = matcher or Matcher(0.5, 0.4, allow_low_quality_matches=True)
        self.postprocessor = postprocessor or Postprocessor(0.5, topk_candidates=1000, detections_per_image=300)
        load_weights(self, weights)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return self._loss(self._predict(batch.images, batch.image_sizes), batch.targets)

    def forward(self, images: Tensor, image_sizes: Tensor, proposals: Instances | None = None) -> Instances:
        return self._detect(self._predict(images, image_sizes), image_sizes)

    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Instances]:
        predictions = self._predict(batch.images, batch.image_sizes)
        return self._loss(predictions, batch.targets), self._detect(predictions, batch.image_sizes)

    def _predict(self, images: Tensor, image_sizes: Tensor) -> Predictions:
        features = self.backbone(images, image_sizes)
        logits, deltas = self.head(features)
        anchors = self.anchor_generator(features, images.shape[-2:])
        return Predictions(logits, deltas, torch.cat(anchors), [len(level) for level in anchors])

    def _loss(self, predictions: Predictions, targets: Instances) -> dict[str, Tensor]:
        """Sum the losses of an image's anchors over its number of positives (section 4.1), and average over images."""
        logits, deltas, anchors, _ = predictions
        matched, match_labels = self.matcher(box_ops.iou(targets.boxes, anchors), targets.valid)
        positive = match_labels == POSITIVE
        assert targets.labels is not None
        labels = torch.where(positive, targets.labels.gather(1, matched), self.num_classes)
        truth = (labels[..., None] == torch.arange(self.num_classes, device=labels.device)).to(logits.dtype)
        focal = sigmoid_focal_loss(box_ops.as_float(logits), box_ops.as_float(truth), ALPHA, GAMMA).sum(dim=-1)
        focal = torch.where(match_labels != IGNORED, focal, 0)
        boxes = box_ops.take(targets.boxes, matched)
        boxes = torch.where(positive[..., None], boxes, anchors)  # padding may hold anything
        per_anchor = torch.where(positive, self._box_loss(deltas, boxes, anchors), 0)
        weight = 1 / (positive.sum(dim=1).clamp(min=1) * max(1, len(logits)))
        return {
            "loss_classifier": (focal.sum(dim=1) * weight).sum(),
            "loss_box_reg": (per_anchor.sum(dim=1) * weight).sum(),
        }

    def _box_loss(self, deltas: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Compare ``deltas`` (B, A, 4) of ``anchors`` (A, 4) with ``boxes`` (B, A, 4), for each anchor (B, A)."""
        if self.head.box_loss == "giou":
            return generalized_box_iou_loss(box_ops.decode(deltas, anchors), boxes)  # type: ignore[no-any-return]
        difference: Tensor = box_ops.as_float(deltas) - box_ops.encode(boxes, anchors)
        return difference.abs().sum(dim=-1)

    def _detect(self, predictions: Predictions, image_sizes: Tensor) -> Instances:
        logits, deltas, anchors, counts = predictions
        scores = box_ops.as_float(logits).sigmoid()
        candidates = []
        for start, stop in pairwise(accumulate(counts, initial=0)):  # of each level
            best, index, labels = self.postprocessor.top_candidates(scores[:, start:stop])
            index = start + index
            boxes = box_ops.decode(box_ops.take(deltas, index), anchors[index])
            candidates.append((boxes, best, labels))
        boxes, best, labels = (torch.cat(each, dim=1) for each in zip(*candidates, strict=True))
        return self.postprocessor.suppress(boxes, best, labels, image_sizes)
