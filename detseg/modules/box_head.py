"""From the features of a region to its class and its refined box (Fast R-CNN, sections 2.1 to 2.3)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detseg.modules.backbones.norm import Norm
from detseg.modules.backbones.resnet import ResNet
from detseg.ops import boxes as box_ops
from detseg.ops.losses import class_loss, delta_loss
from detseg.ops.matching import NEGATIVE, POSITIVE, match
from detseg.ops.sampling import sample
from detseg.ops.suppression import suppress
from detseg.recipe import Recipe
from detseg.structures import Instances

DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # makes the targets' deviation about 1, as in the original implementations
MIN_SIDE = 1e-2  # pixels; a detection that clipping made narrower lies outside the image


class RegionHead(nn.Module, Recipe):
    """What a region's features pass before they are judged.

    Takes (M, in_channels, size, size), the features of M regions, and gives (M, channels).
    """

    in_channels: int
    size: int
    channels: int


class TwoFCHead(RegionHead):
    """Two fully connected layers (FPN, section 5.2; VGG's fc6 and fc7 in Fast R-CNN)."""

    def __init__(self, in_channels: int = 256, size: int = 7, channels: int = 1024) -> None:
        super().__init__()
        self.in_channels, self.size, self.channels = in_channels, size, channels
        self.fc6 = nn.Linear(in_channels * size * size, channels)
        self.fc7 = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc6(x.flatten(1)))
        return F.relu(self.fc7(x))


class Conv5Head(RegionHead):
    """The last stage of a ResNet, run on each region, then averaged (ResNet, appendix A).

    For a backbone that ends with conv4: ``ResNet(name, stages=[4])``. ``weights`` and ``norm`` as in ``ResNet``.
    """

    def __init__(
        self,
        name: Literal["resnet50", "resnet101", "resnet152"] = "resnet50",
        weights: str | None = None,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.size, self.channels = 1024, 14, 2048
        self.layer4 = ResNet(name, weights, stages=[5], frozen=0, norm=norm).layer4

    def forward(self, x: Tensor) -> Tensor:
        return self.layer4(x).mean(dim=(2, 3))  # type: ignore[no-any-return, operator]


def sample_regions(
    proposals: Instances, targets: Instances, num_classes: int, high: float, low: float, count: int, fraction: float
) -> tuple[Instances, Tensor]:
    """Draw ``count`` regions an image to learn from, at most ``fraction`` of them objects (Fast R-CNN, section 2.3).

    A proposal is an object at IoU >= ``high`` with a ground truth, and background at IoU in [``low``, ``high``). The
    ground truth itself is among the proposals, so that there are objects to learn from while proposals are still poor.

    Returns regions with labels, ``num_classes`` being the background, objects first; and (B, R, 4), the box of the
    ground truth that each region belongs to, meaningful for objects.
    """
    boxes = torch.cat([proposals.boxes, targets.boxes], dim=1)
    exists = torch.cat([proposals.valid, targets.valid], dim=1)
    overlaps = box_ops.iou(targets.boxes, boxes)
    matched, kind = match(overlaps, targets.valid, high, high, low_quality=False)
    background = kind == NEGATIVE
    if low > 0:
        background &= torch.where(targets.valid[..., None], overlaps, 0).amax(dim=1) >= low
    chosen, valid = sample((kind == POSITIVE) & exists, background & exists, count, fraction)
    boxes = boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
    matched = matched.gather(1, chosen)
    assert targets.labels is not None
    labels = torch.where(kind.gather(1, chosen) == POSITIVE, targets.labels.gather(1, matched), num_classes)
    return Instances(boxes, valid, labels), targets.boxes.gather(1, matched[..., None].expand(-1, -1, 4))


class BoxHead(nn.Module):
    """Two sibling layers behind ``body``: a softmax over the classes and the background, and a box for each class."""

    def __init__(self, body: RegionHead, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.body = body
        self.classes = nn.Linear(body.channels, num_classes + 1)  # the background comes last
        self.deltas = nn.Linear(body.channels, 4 * num_classes)
        nn.init.normal_(self.classes.weight, std=0.01)  # Fast R-CNN, section 2.3
        nn.init.normal_(self.deltas.weight, std=0.001)
        nn.init.zeros_(self.classes.bias)
        nn.init.zeros_(self.deltas.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (M, C, size, size) of M regions to logits (M, K + 1) and deltas (M, K, 4)."""
        x = self.body(features)
        return self.classes(x), self.deltas(x).unflatten(1, (self.num_classes, 4))

    def loss(self, logits: Tensor, deltas: Tensor, regions: Instances, truth: Tensor) -> dict[str, Tensor]:
        """The multi-task loss (Fast R-CNN, equation 1) of what ``sample_regions`` returned."""
        assert regions.labels is not None
        labels, valid = regions.labels.flatten(), regions.valid.flatten()
        positive = valid & (labels < self.num_classes)
        of_class = labels.clamp(max=self.num_classes - 1)[:, None, None].expand(-1, 1, 4)
        targets = box_ops.encode(truth.flatten(0, 1), regions.boxes.flatten(0, 1), DELTA_WEIGHTS)
        return {
            "box_class": class_loss(logits, labels, valid),
            "box_delta": delta_loss(deltas.gather(1, of_class)[:, 0], targets, positive, valid.sum()),
        }

    def detect(
        self,
        logits: Tensor,
        deltas: Tensor,
        regions: Instances,
        sizes: Tensor,
        score_threshold: float,
        nms: float,
        candidates: int,
        limit: int,
    ) -> Instances:
        """Detections of each image, best first, after suppression within each class.

        Of the (region, class) pairs of an image, the ``candidates`` with the highest scores are looked at, and of these
        the ones above ``score_threshold``; at most ``limit`` are kept. ``sizes`` (B, 2): boxes are clipped to it.
        """
        images, count = regions.valid.shape
        scores = box_ops.as_float(logits).softmax(dim=-1)[:, :-1].view(images, count, self.num_classes)
        scores = torch.where(regions.valid[..., None], scores, 0).flatten(1)
        scores, chosen = scores.topk(min(candidates, scores.shape[1]), dim=1)
        region, labels = chosen // self.num_classes, chosen % self.num_classes
        of_pair = chosen[..., None].expand(-1, -1, 4)
        boxes = box_ops.decode(
            deltas.reshape(images, count * self.num_classes, 4).gather(1, of_pair),
            regions.boxes.gather(1, region[..., None].expand(-1, -1, 4)),
            DELTA_WEIGHTS,
        )
        boxes = box_ops.clip(boxes, sizes)
        real = ((boxes[..., 2:] - boxes[..., :2]) >= MIN_SIDE).all(dim=-1) & (scores > score_threshold)
        kept, valid = suppress(boxes, scores, labels, real, nms, limit)
        return Instances(
            torch.where(valid[..., None], boxes.gather(1, kept[..., None].expand(-1, -1, 4)), 0),
            valid,
            labels.gather(1, kept),
            torch.where(valid, scores.gather(1, kept), 0),
        )
