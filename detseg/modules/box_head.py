"""From the features of a region to its class and its refined box (Fast R-CNN, sections 2.1 to 2.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detseg.configurable import Configurable
from detseg.kernels import nms, roi_align
from detseg.modules.backbones.backbone import Backbone
from detseg.modules.backbones.convnet import ConvNet
from detseg.modules.backbones.norm import Norm
from detseg.modules.backbones.resnet import ResNet
from detseg.modules.conv import ConvNormAct
from detseg.modules.linear import Linear
from detseg.ops import boxes as box_ops
from detseg.ops.losses import BETA, class_loss, delta_loss
from detseg.ops.matching import POSITIVE, match
from detseg.ops.roi_pooling import roi_pool
from detseg.ops.sampling import sample
from detseg.structures import Instances

DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # makes the targets' deviation about 1, as in the original implementations
MIN_SIDE = 1e-2  # pixels; a detection that clipping made narrower lies outside the image

Pooling = Literal["roi_align", "roi_pool"]


class RegionHead(nn.Module, Configurable):
    """What a region's features pass before they are judged.

    Takes (M, in_channels, size, size), the features of M regions, and gives (M, channels).
    """

    in_channels: int
    size: int
    channels: int


class TwoMLPHead(RegionHead):
    """Two fully connected layers (FPN, section 5.2; VGG's fc6 and fc7 in Fast R-CNN).

    ``ranks`` are for a head that has been through ``truncate``.
    """

    def __init__(
        self, in_channels: int = 256, size: int = 7, channels: int = 1024, ranks: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.in_channels, self.size, self.channels = in_channels, size, channels
        self.fc6: nn.Module = Linear(in_channels * size * size, channels)
        self.fc7: nn.Module = Linear(channels, channels)
        if ranks is not None:
            _split(self, *ranks)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc6(x.flatten(1)), inplace=True)
        return F.relu(self.fc7(x), inplace=True)


class ConvFCHead(RegionHead):
    """Convolutions of 3 x 3 and one fully connected layer (Group Normalization, Wu & He 2018, section 4.2).

    With batch norm after each convolution it is the head of Li et al. 2021 (arXiv:2111.11429).
    """

    def __init__(
        self, in_channels: int = 256, size: int = 7, depth: int = 4, channels: int = 1024, norm: Norm | None = "batch"
    ) -> None:
        super().__init__()
        self.in_channels, self.size, self.channels = in_channels, size, channels
        convolutions = [ConvNormAct(in_channels, in_channels, 3, norm) for _ in range(depth)]
        for layer in convolutions:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        self.convs = nn.ModuleList(convolutions)
        self.fc = Linear(in_channels * size * size, channels)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.convs:
            x = F.relu(layer(x), inplace=True)
        return F.relu(self.fc(x.flatten(1)), inplace=True)


class ClassifierHead(RegionHead):
    """The two hidden fully connected layers of an ImageNet classifier (Fast R-CNN, section 2.2): fc6 and fc7 of VGG.

    ``backbone`` is the whole network that they are taken from, with its weights, such as ``VGG("vgg16", weights=...)``;
    nothing else of it is kept. The bins of a region are as many as it was trained with: 7 x 7 for VGG, 6 x 6 for
    AlexNet. ``dropout`` follows each layer in training. ``ranks`` are for a head that has been through ``truncate``.

    Raises ValueError for a network that has been cut short, or does not end with three fully connected layers.
    """

    def __init__(self, backbone: ConvNet, dropout: float = 0.5, ranks: tuple[int, int] | None = None) -> None:
        super().__init__()
        classifier, _ = backbone.classifier(num_classes=1000)
        layers = [layer for layer in classifier.modules() if isinstance(layer, nn.Linear)]
        if len(layers) != 3:
            raise ValueError(
                f"{backbone.name} has {len(layers)} fully connected layers: a head is made of the first two of three"
            )
        self.dropout = dropout
        self.fc6: nn.Module = layers[0]
        self.fc7: nn.Module = layers[1]
        self.in_channels, self.channels = backbone.channels[-1], layers[1].out_features
        self.size = math.isqrt(layers[0].in_features // self.in_channels)
        if ranks is not None:
            _split(self, *ranks)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.fc6(x.flatten(1))), self.dropout, self.training)
        return F.dropout(F.relu(self.fc7(x)), self.dropout, self.training)


class Res5Head(RegionHead):
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
        return self.average(self.maps(x))

    def maps(self, x: Tensor) -> Tensor:
        """The features before they are averaged, (M, channels, size / 2, size / 2)."""
        return self.layer4(x)  # type: ignore[no-any-return, operator]

    def average(self, maps: Tensor) -> Tensor:
        """What ``forward`` makes of the ``maps`` of its input, (M, channels)."""
        return maps.mean(dim=(2, 3))


def check_fit(backbone: Backbone, head: RegionHead) -> None:
    """Raise ValueError, saying what, if regions cannot be pooled from the backbone's maps, or not for this head."""
    channels, strides = backbone.channels, backbone.strides[: len(backbone.strides) - backbone.num_rpn_only_levels]
    if len(set(channels)) > 1:
        raise ValueError(f"the backbone's maps have {channels} channels: put it under an FPN, or take one stage")
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise ValueError(f"the backbone's maps have strides {strides}; each must be twice the one before")
    if head.in_channels != channels[0]:
        raise ValueError(f"the head takes {head.in_channels} channels, the backbone gives {channels[0]}")


def pool_regions(
    features: Sequence[Tensor], regions: Instances, strides: Sequence[int], size: int, pooling: Pooling
) -> Tensor:
    """Features of the regions (B, R), (B * R, C, size, size), in the precision of the maps.

    Maps beyond ``strides`` are for anchors alone.
    """
    boxes = torch.where(regions.valid[..., None], regions.boxes, 0)  # padding may hold anything
    pool = {"roi_align": roi_align, "roi_pool": roi_pool}[pooling]
    return pool(features[: len(strides)], boxes, strides, size).to(features[0].dtype)


def label_regions(
    proposals: Instances, targets: Instances, num_classes: int, iou: float
) -> tuple[Instances, Tensor, Tensor]:
    """Say of every proposal, and of the ground truth, which is among them, what it shows (Fast R-CNN, section 2.3).

    An object at IoU >= ``iou`` with a ground truth; else background, ``num_classes``. With the ground truth there are
    objects to learn from while proposals are still poor.

    Returns regions (B, R) with labels; the place among the targets (B, R) of the ground truth that each overlaps most;
    and the overlaps (B, N, R), meaningful where the target is valid.
    """
    boxes = torch.cat([proposals.boxes, targets.boxes], dim=1)
    exists = torch.cat([proposals.valid, targets.valid], dim=1)
    overlaps = box_ops.iou(targets.boxes, boxes)
    matched, kind = match(overlaps, targets.valid, iou, iou, allow_low_quality_matches=False)
    assert targets.labels is not None
    labels = torch.where(kind == POSITIVE, targets.labels.gather(1, matched), num_classes)
    return Instances(boxes, exists, labels), matched, overlaps


def sample_regions(
    proposals: Instances, targets: Instances, num_classes: int, high: float, low: float, count: int, fraction: float
) -> tuple[Instances, Tensor, Tensor]:
    """Draw ``count`` regions an image to learn from, at most ``fraction`` of them objects (Fast R-CNN, section 2.3).

    Objects and background as ``label_regions`` tells them apart at IoU ``high``; of the background, what has an IoU of
    at least ``low`` with a ground truth.

    Returns regions with labels, ``num_classes`` being the background, objects first; and of the ground truth that each
    region belongs to, meaningful for objects, the box (B, R, 4) and the place among the targets (B, R).
    """
    regions, matched, overlaps = label_regions(proposals, targets, num_classes, high)
    assert regions.labels is not None
    background = regions.labels == num_classes
    objects = regions.valid & ~background
    if low > 0:
        background &= torch.where(targets.valid[..., None], overlaps, 0).amax(dim=1) >= low
    chosen, valid = sample(objects, background & regions.valid, count, fraction)
    boxes = regions.boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
    labels, matched = regions.labels.gather(1, chosen), matched.gather(1, chosen)
    truth = targets.boxes.gather(1, matched[..., None].expand(-1, -1, 4))
    return Instances(boxes, valid, labels), truth, matched


def best_detections(
    scores: Tensor,
    deltas: Tensor,
    regions: Instances,
    sizes: Tensor,
    score_threshold: float,
    nms_threshold: float,
    candidates: int,
    limit: int,
) -> Instances:
    """Detections of each image, best first, after suppression within each class.

    ``scores`` (B, R, K) and ``deltas`` (B, R, K, 4) of each region and class. Of these pairs of an image the
    ``candidates`` with the highest scores are looked at, and of these the ones above ``score_threshold``; at most
    ``limit`` are kept. ``sizes`` (B, 2): boxes are clipped to it.
    """
    num_classes = scores.shape[2]
    scores = torch.where(regions.valid[..., None], scores, 0).flatten(1)
    scores, chosen = scores.topk(min(candidates, scores.shape[1]), dim=1)
    region, labels = chosen // num_classes, chosen % num_classes
    boxes = box_ops.decode(
        deltas.flatten(1, 2).gather(1, chosen[..., None].expand(-1, -1, 4)),
        regions.boxes.gather(1, region[..., None].expand(-1, -1, 4)),
        DELTA_WEIGHTS,
    )
    boxes = box_ops.clip(boxes, sizes)
    real = ((boxes[..., 2:] - boxes[..., :2]) >= MIN_SIDE).all(dim=-1) & (scores > score_threshold)
    kept, valid = nms(boxes, scores, labels, real, nms_threshold, limit)
    return Instances(
        torch.where(valid[..., None], boxes.gather(1, kept[..., None].expand(-1, -1, 4)), 0),
        valid,
        labels.gather(1, kept),
        torch.where(valid, scores.gather(1, kept), 0),
    )


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
        return self.judge(self.body(features))

    def judge(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the body made of M regions, (M, body.channels), to logits (M, K + 1) and deltas (M, K, 4)."""
        return self.classes(x), self.deltas(x).unflatten(1, (self.num_classes, 4))

    def loss(
        self, logits: Tensor, deltas: Tensor, regions: Instances, truth: Tensor, beta: float = BETA
    ) -> dict[str, Tensor]:
        """The multi-task loss (Fast R-CNN, equation 1) of what ``sample_regions`` gave; ``beta`` of ``delta_loss``."""
        assert regions.labels is not None
        labels, valid = regions.labels.flatten(), regions.valid.flatten()
        positive = valid & (labels < self.num_classes)
        of_class = labels.clamp(max=self.num_classes - 1)[:, None, None].expand(-1, 1, 4)
        targets = box_ops.encode(truth.flatten(0, 1), regions.boxes.flatten(0, 1), DELTA_WEIGHTS)
        return {
            "box_class": class_loss(logits, labels, valid),
            "box_delta": delta_loss(deltas.gather(1, of_class)[:, 0], targets, positive, valid.sum(), beta),
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
        """Detections of each image, as ``best_detections`` has them, of logits (M, K + 1) and deltas (M, K, 4)."""
        images, count = regions.valid.shape
        scores = box_ops.as_float(logits).softmax(dim=-1)[:, :-1].view(images, count, self.num_classes)
        deltas = deltas.view(images, count, self.num_classes, 4)
        return best_detections(scores, deltas, regions, sizes, score_threshold, nms, candidates, limit)


def truncate(head: TwoMLPHead | ClassifierHead, fc6: int = 1024, fc7: int = 256) -> None:
    """Make a trained head quicker: each layer becomes two, with so many units between them (Fast R-CNN, section 3.1).

    The two are as close to the one as any of that rank. The layers are replaced in place; a checkpoint that is written
    afterwards is one of the quicker head.

    Raises ValueError for a rank that a layer does not have, and for a head that has been truncated.
    """
    whole = head.fc6, head.fc7
    _split(head, fc6, fc7)
    for layer, layers in zip(whole, (head.fc6, head.fc7), strict=True):
        _factorise(layer, layers)
    head.init_args["ranks"] = (fc6, fc7)


def _split(head: TwoMLPHead | ClassifierHead, *ranks: int) -> None:
    """Put two layers, with ``ranks`` units between them, in the place of fc6 and of fc7."""
    layers = {"fc6": head.fc6, "fc7": head.fc7}
    pairs = [_two_layers(name, layer, rank) for (name, layer), rank in zip(layers.items(), ranks, strict=True)]
    head.fc6, head.fc7 = pairs


def _two_layers(name: str, layer: nn.Module, rank: int) -> nn.Sequential:
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"{name} has been truncated already")
    if not 1 <= rank <= min(layer.weight.shape):
        raise ValueError(f"{name}: rank {rank} must be between 1 and {min(layer.weight.shape)}")
    kind: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    first = Linear(layer.in_features, rank, bias=False, **kind)
    return nn.Sequential(first, Linear(rank, layer.out_features, **kind))


@torch.no_grad()
def _factorise(layer: Any, layers: Any) -> None:
    """W = U S V^T, cut after so many singular values: first S V^T without a bias, then U with that of ``layer``."""
    # U are the eigenvectors of W W^T, and S V^T = U^T W: the large V is not needed.
    weight = layer.weight.double()
    u = torch.linalg.eigh(weight @ weight.T).eigenvectors[:, -layers[0].out_features :]
    layers[0].weight.copy_(u.T @ weight)
    layers[1].weight.copy_(u)
    layers[1].bias.copy_(layer.bias)
