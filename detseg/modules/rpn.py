"""Region proposal network (Faster R-CNN, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detseg.kernels import nms
from detseg.kernels.roi_pooling import gather_patches
from detseg.modules.conv import ConvNormAct
from detseg.ops import boxes as box_ops
from detseg.ops.anchors import base_anchors, grid_anchors
from detseg.ops.losses import delta_loss, objectness_loss
from detseg.ops.matching import NEGATIVE, POSITIVE, match
from detseg.ops.sampling import sample
from detseg.structures import Instances

DELTA_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
MIN_SIDE = 1e-3  # pixels; a proposal that clipping made narrower lies outside the image


class Predictions(NamedTuple):
    """What the network says of every anchor, finest map first."""

    logits: Tensor  # (B, A): is there an object?
    deltas: Tensor  # (B, A, 4): where, relative to the anchor
    anchors: Tensor  # (A, 4)
    counts: list[int]  # anchors of each map; they add up to A


class RPN(nn.Module):
    """A small network that slides over the feature maps and says of each anchor whether it is an object, and where.

    ``sizes`` are the anchors' sizes on each map. The other arguments are the paper's: IoU from which an anchor is
    positive (``high``) or below which negative (``low``), ``samples`` an image and the share of positives, NMS. The
    paper has one convolution (``depth``) and proposes whatever the score.
    """

    def __init__(
        self,
        channels: int,
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        high: float = 0.7,
        low: float = 0.3,
        samples: int = 256,
        positive_fraction: float = 0.5,
        nms: float = 0.7,
        depth: int = 1,
        score_threshold: float = 0.0,
    ) -> None:
        super().__init__()
        self.high, self.low, self.nms, self.score_threshold = high, low, nms, score_threshold
        self.samples, self.positive_fraction = samples, positive_fraction
        anchors = len(sizes[0]) * len(ratios)
        self.conv = ConvNormAct(channels, channels, 3)
        self.deeper = nn.ModuleList(ConvNormAct(channels, channels, 3) for _ in range(depth - 1))
        self.objectness = nn.Conv2d(channels, anchors, 1)
        self.deltas = nn.Conv2d(channels, 4 * anchors, 1)
        for layer in (self.conv, *self.deeper, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)  # section 3.1.3
            nn.init.constant_(layer.bias, 0)
        # Buffers, so that they move with the network; constants, so not in its state.
        for level, of_level in enumerate(sizes):
            self.register_buffer(f"cells{level}", base_anchors(of_level, ratios), persistent=False)

    def forward(self, features: Sequence[Tensor], image: tuple[int, int]) -> Predictions:
        """Predictions on ``features`` (B, C, h, w), fine to coarse, of images of height and width ``image``."""
        logits, deltas, anchors = [], [], []
        for level, feature in enumerate(features):
            hidden = F.relu(self.conv(feature), inplace=True)
            for layer in self.deeper:
                hidden = F.relu(layer(hidden), inplace=True)
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
            grid = (feature.shape[2], feature.shape[3])
            anchors.append(grid_anchors(getattr(self, f"cells{level}"), grid, image))
        counts = [len(level) for level in anchors]
        return Predictions(torch.cat(logits, dim=1), torch.cat(deltas, dim=1), torch.cat(anchors), counts)

    def survey(self, features: Sequence[Tensor], image: Sequence[int]) -> Predictions:
        """``forward``, without a gradient if ``loss`` computes that of its samples from the features."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and len(self.deeper) > 0):
            predictions: Predictions = self(features, image)
        return predictions

    def predict(self, features: Sequence[Tensor], chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, S) and deltas (B, S, 4) of the anchors ``chosen`` (B, S): those that ``forward`` gives for them.

        Each is computed alone, from the 3 x 3 pixels around its cell; not for deeper convolutions, which see more.
        """
        kinds = self.objectness.out_channels  # of anchors in a cell
        # Products of matrices: convolutions that give a single pixel take several times as long.
        around = gather_patches(features, chosen // kinds).permute(0, 2, 3, 1).flatten(1)
        hidden = F.relu(F.linear(around, self.conv.weight.permute(0, 2, 3, 1).flatten(1), self.conv.bias), inplace=True)
        logits, deltas = (
            F.linear(hidden, layer.weight.flatten(1), layer.bias) for layer in (self.objectness, self.deltas)
        )
        logits, deltas = logits.view(*chosen.shape, kinds), deltas.view(*chosen.shape, kinds, 4)
        kind = (chosen % kinds)[..., None]
        return logits.gather(2, kind)[..., 0], deltas.gather(2, kind[..., None].expand(-1, -1, -1, 4))[:, :, 0]

    def loss(
        self, predictions: Predictions, targets: Instances, features: Sequence[Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Equation 1: is each sampled anchor an object, and where the positive ones point to.

        Few anchors are sampled, and only they have a gradient. With the ``features`` that they were made of, the
        predictions of ``survey`` need none: that of the samples is computed from them, which leaves out the backward
        pass over all the others.
        """
        logits, deltas, anchors, _ = predictions
        with torch.no_grad():
            overlaps = box_ops.iou(targets.boxes, anchors)
            matched, kind = match(overlaps, targets.valid, self.high, self.low, allow_low_quality_matches=True)
            chosen, valid = sample(kind == POSITIVE, kind == NEGATIVE, self.samples, self.positive_fraction)
            positive = valid & (kind.gather(1, chosen) == POSITIVE)
            boxes = targets.boxes.gather(1, matched.gather(1, chosen)[..., None].expand(-1, -1, 4))
            delta_targets = box_ops.encode(boxes, anchors[chosen], DELTA_WEIGHTS)
        if features is None or self.deeper:
            logits, deltas = logits.gather(1, chosen), deltas.gather(1, chosen[..., None].expand(-1, -1, 4))
        else:
            logits, deltas = self.predict(features, chosen)
        return {
            "rpn_objectness": objectness_loss(logits, positive, valid),
            "rpn_box": delta_loss(deltas, delta_targets, positive, valid.sum()),
        }

    @torch.no_grad()
    def propose(self, predictions: Predictions, sizes: Tensor, candidates: int, limit: int) -> Instances:
        """The best ``limit`` boxes of each image after NMS; best first.

        Of each map, ``candidates`` enter the suppression, and boxes compete with those of their own map only (FPN,
        section 5.1). ``sizes`` (B, 2) are the images' sizes inside the padding, to which boxes are clipped.
        """
        logits, deltas, anchors, counts = predictions
        starts = [sum(counts[:level]) for level in range(len(counts) + 1)]
        best = [
            start + logits[:, start:stop].topk(min(candidates, stop - start), dim=1).indices
            for start, stop in pairwise(starts)
        ]
        chosen = torch.cat(best, dim=1)
        level = torch.cat([torch.full_like(indices, number) for number, indices in enumerate(best)], dim=1)
        scores = box_ops.as_float(logits.gather(1, chosen)).sigmoid()
        boxes = box_ops.decode(deltas.gather(1, chosen[..., None].expand(-1, -1, 4)), anchors[chosen], DELTA_WEIGHTS)
        boxes = box_ops.clip(boxes, sizes)
        real = ((boxes[..., 2:] - boxes[..., :2]) >= MIN_SIDE).all(dim=-1) & (scores >= self.score_threshold)
        kept, valid = nms(boxes, scores, level, real, self.nms, limit)
        boxes = torch.where(valid[..., None], boxes.gather(1, kept[..., None].expand(-1, -1, 4)), 0)
        return Instances(boxes, valid, scores=scores.gather(1, kept))
