"""Region proposal network (Faster R-CNN, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detseg.configurable import Configurable
from detseg.kernels import gather_patches, is_fast, nms
from detseg.modules.anchor_generator import AnchorGenerator
from detseg.modules.backbones.backbone import Backbone
from detseg.modules.layers import ConvNormAct
from detseg.modules.part import Part, check_ranges
from detseg.modules.target_assignment import ANCHORS, NEGATIVE, POSITIVE, BalancedSampler, Matcher, uniform
from detseg.ops import boxes as box_ops
from detseg.structures import Instances

MIN_SIDE = 1e-3  # pixels; a proposal that clipping made narrower lies outside the image


class Predictions(NamedTuple):
    """Predictions for the A anchors of all levels, finest first."""

    logits: Tensor  # (B, A) of an object
    deltas: Tensor  # (B, A, 4) from the anchor to the object
    anchors: Tensor  # (A, 4)
    num_anchors_per_level: list[int]


class RPNHead(Part):
    """``num_convs`` convolutions of 3 x 3, then a logit and four deltas for each anchor of a cell.

    The paper has one convolution; Li et al. 2021 (arXiv:2111.11429) have two.
    """

    def __init__(self, num_convs: int = 1) -> None:
        super().__init__()
        check_ranges({"num_convs": num_convs}, {})
        self.num_convs = num_convs
        self.can_sample = num_convs == 1  # ``forward_sampled`` needs predictions that depend on 3 x 3 cells alone

    def build(self, in_channels: int, num_anchors_per_cell: int) -> Self:
        """Create the layers."""
        if self.build_once(in_channels=in_channels, num_anchors_per_cell=num_anchors_per_cell):
            self.conv = nn.ModuleList(ConvNormAct(in_channels, in_channels, 3) for _ in range(self.num_convs))
            self.cls_logits = nn.Conv2d(in_channels, num_anchors_per_cell, 1)
            self.bbox_pred = nn.Conv2d(in_channels, 4 * num_anchors_per_cell, 1)
            for layer in (*self.conv, self.cls_logits, self.bbox_pred):
                nn.init.normal_(layer.weight, std=0.01)  # section 3.1.3
                nn.init.constant_(layer.bias, 0)
        return self

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Predict logits (B, A) and deltas (B, A, 4) of all anchors of ``features`` (B, C, h, w)."""
        logits, deltas = [], []
        for hidden in features:
            for layer in self.conv:
                hidden = F.relu(layer(hidden), inplace=True)
            logits.append(self.cls_logits(hidden).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.bbox_pred(hidden).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
        return torch.cat(logits, dim=1), torch.cat(deltas, dim=1)

    def forward_sampled(self, features: Sequence[Tensor], indices: Tensor) -> tuple[Tensor, Tensor]:
        """Predict logits (B, S) and deltas (B, S, 4) of the anchors with these ``indices`` (B, S) alone."""
        per_cell = self.cls_logits.out_channels
        # Products of matrices: convolutions that give a single pixel take several times as long.
        around = gather_patches(features, indices // per_cell).permute(0, 2, 3, 1).flatten(1)
        conv: Any = self.conv[0]
        hidden = F.relu(F.linear(around, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias), inplace=True)
        logits, deltas = (
            F.linear(hidden, layer.weight.flatten(1), layer.bias) for layer in (self.cls_logits, self.bbox_pred)
        )
        logits, deltas = logits.view(*indices.shape, per_cell), deltas.view(*indices.shape, per_cell, 4)
        anchor = (indices % per_cell)[..., None]
        return logits.gather(2, anchor)[..., 0], deltas.gather(2, anchor[..., None].expand(-1, -1, -1, 4))[:, :, 0]


class RPN(nn.Module, Configurable):
    """Score anchors and refine them to proposals.

    Anchors match at IoU 0.7 and 0.3, and the best one of each object; 256 an image are sampled for the loss, half of
    them positive (Faster R-CNN, section 3.1). Anchors that cross the edge of the image take part, as in torchvision and
    detectron2; the paper ignores them in training (section 3.3). Pairs of numbers are for training and for inference:
    of each map the ``pre_nms_top_n`` best boxes enter NMS, and the ``post_nms_top_n`` best of all maps leave it. The
    default of ``post_nms_top_n`` is that of FPN (section 5.2), the one of ``pre_nms_top_n`` that of torchvision and
    detectron2. Boxes with a score below ``score_threshold`` are discarded.
    """

    def __init__(
        self,
        anchor_generator: AnchorGenerator | None = None,
        head: RPNHead | None = None,
        matcher: Matcher | None = None,
        sampler: BalancedSampler | None = None,
        pre_nms_top_n: tuple[int, int] = (2000, 1000),
        post_nms_top_n: tuple[int, int] = (2000, 1000),
        nms_threshold: float = 0.7,
        score_threshold: float = 0.0,
    ) -> None:
        super().__init__()
        counts = {"pre_nms_top_n": min(pre_nms_top_n), "post_nms_top_n": min(post_nms_top_n)}
        check_ranges(counts, {"nms_threshold": nms_threshold, "score_threshold": score_threshold})
        self.anchor_generator = anchor_generator or AnchorGenerator()
        self.head = head or RPNHead()
        self.matcher = matcher or Matcher(0.7, 0.3, allow_low_quality_matches=True)
        self.sampler = sampler or BalancedSampler(256, 0.5)
        self.pre_nms_top_n, self.post_nms_top_n = pre_nms_top_n, post_nms_top_n
        self.nms_threshold, self.score_threshold = nms_threshold, score_threshold

    def build(self, backbone: Backbone) -> Self:
        """Create the layers for the maps of ``backbone``."""
        self.anchor_generator.build(backbone.strides)
        self.head.build(backbone.channels[0], self.anchor_generator.num_anchors_per_cell)
        return self

    def forward(self, features: Sequence[Tensor], image_shape: Sequence[int]) -> Predictions:
        """Predict on ``features`` (B, C, h, w), fine to coarse, of images of this height and width.

        With fast kernels, without gradients where ``loss`` can compute those of the sampled anchors by itself: that
        leaves out the backward pass over all the others.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not (is_fast() and self.head.can_sample)):
            logits, deltas = self.head(features)
        anchors = self.anchor_generator(features, image_shape)
        return Predictions(logits, deltas, torch.cat(anchors), [len(level) for level in anchors])

    def loss(
        self, features: Sequence[Tensor], predictions: Predictions, targets: Instances, seeds: Tensor
    ) -> dict[str, Tensor]:
        """Compute the multi-task loss (equation 1) of sampled anchors, from ``predictions`` on ``features``.

        Both terms are divided by the number of samples; for boxes the paper has N_reg / lambda = 240, about as many.
        The ``seeds`` (B,) of the images determine the sample.
        """
        logits, deltas, anchors, _ = predictions
        with torch.no_grad():
            matched, match_labels = self.matcher(box_ops.iou(targets.boxes, anchors), targets.valid)
            priority = uniform(seeds, torch.arange(len(anchors), device=anchors.device), ANCHORS)
            sampled, valid = self.sampler(match_labels == POSITIVE, match_labels == NEGATIVE, priority)
            positive = valid & (match_labels.gather(1, sampled) == POSITIVE)
            boxes = box_ops.take(targets.boxes, matched.gather(1, sampled))
            delta_targets = box_ops.encode(boxes, anchors[sampled])
        if logits.requires_grad or not self.head.can_sample:
            logits, deltas = logits.gather(1, sampled), box_ops.take(deltas, sampled)
        else:
            logits, deltas = self.head.forward_sampled(features, sampled)
        logits = box_ops.as_float(logits)
        objectness = F.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="none")
        return {
            "loss_objectness": torch.where(valid, objectness, 0).sum() / valid.sum().clamp(min=1),
            "loss_rpn_box_reg": box_ops.delta_loss(deltas, delta_targets, positive, valid.sum()),
        }

    @torch.no_grad()
    def propose(self, predictions: Predictions, image_sizes: Tensor, training: bool) -> Instances:
        """Select the best boxes of each image, best first, in the numbers for ``training`` or for inference.

        Boxes compete in NMS with those of their own map only, as in Detectron, and are clipped to ``image_sizes``
        (B, 2), the images' height and width inside the padding.
        """
        top_n, limit = (pair[0 if training else 1] for pair in (self.pre_nms_top_n, self.post_nms_top_n))
        level_starts = accumulate(predictions.num_anchors_per_level, initial=0)
        best = [
            start + predictions.logits[:, start:stop].topk(min(top_n, stop - start), dim=1).indices
            for start, stop in pairwise(level_starts)
        ]
        level = torch.cat([torch.full_like(indices, number) for number, indices in enumerate(best)], dim=1)
        indices = torch.cat(best, dim=1)
        scores = box_ops.as_float(predictions.logits.gather(1, indices)).sigmoid()
        deltas = box_ops.take(predictions.deltas, indices)
        boxes = box_ops.clip(box_ops.decode(deltas, predictions.anchors[indices]), image_sizes)
        valid = ((boxes[..., 2:] - boxes[..., :2]) >= MIN_SIDE).all(dim=-1) & (scores >= self.score_threshold)
        kept, valid = nms(boxes, scores, level, valid, self.nms_threshold, limit)
        boxes = torch.where(valid[..., None], box_ops.take(boxes, kept), 0)
        return Instances(boxes, valid, scores=scores.gather(1, kept))
