"""From pooled features of regions to classes and refined boxes (Fast R-CNN, sections 2.1 to 2.3)."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detseg.modules.backbones.convnet import ConvNet
from detseg.modules.backbones.norm import Norm
from detseg.modules.backbones.resnet import ResNet
from detseg.modules.layers import ConvNormAct, Linear
from detseg.modules.part import Part
from detseg.ops.boxes import BETA, as_float, delta_loss, encode, take
from detseg.structures import Instances


class BoxHead(Part):
    """Map the features of M regions, (M, in_channels, pool_size, pool_size), to vectors, (M, channels)."""

    pool_size: int
    channels: int

    def build(self, in_channels: int) -> Self:
        """Create the layers for features with ``in_channels`` channels, if the constructor has not done so."""
        self.build_once(in_channels=in_channels)
        return self


class TwoMLPHead(BoxHead):
    """Two fully connected layers (FPN, section 4.2; VGG's fc6 and fc7 in Fast R-CNN).

    ``ranks`` are those of a head that ``svd_compress`` has made faster.
    """

    def __init__(self, channels: int = 1024, pool_size: int = 7, ranks: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.channels, self.pool_size, self.ranks = channels, pool_size, ranks

    def build(self, in_channels: int) -> Self:
        if self.build_once(in_channels=in_channels):
            self.fc6: nn.Module = Linear(in_channels * self.pool_size**2, self.channels)
            self.fc7: nn.Module = Linear(self.channels, self.channels)
            if self.ranks is not None:
                _split(self, *self.ranks)
        return self

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc6(x.flatten(1)), inplace=True)
        return F.relu(self.fc7(x), inplace=True)


class ConvFCHead(BoxHead):
    """``num_convs`` convolutions of 3 x 3 and one fully connected layer (Wu & He 2018, arXiv:1803.08494, section 4.2).

    With batch norm after each convolution it is the head of Li et al. 2021 (arXiv:2111.11429).
    """

    def __init__(
        self, channels: int = 1024, pool_size: int = 7, num_convs: int = 4, norm: Norm | None = "batch"
    ) -> None:
        super().__init__()
        self.channels, self.pool_size = channels, pool_size
        self.num_convs, self.norm = num_convs, norm

    def build(self, in_channels: int) -> Self:
        if self.build_once(in_channels=in_channels):
            convs = [ConvNormAct(in_channels, in_channels, 3, self.norm) for _ in range(self.num_convs)]
            for layer in convs:
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            self.convs = nn.ModuleList(convs)
            self.fc = Linear(in_channels * self.pool_size**2, self.channels)
        return self

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.convs:
            x = F.relu(layer(x), inplace=True)
        return F.relu(self.fc(x.flatten(1)), inplace=True)


class ClassifierHead(BoxHead):
    """The two hidden fully connected layers of an ImageNet classifier (Fast R-CNN, section 2.2): fc6 and fc7 of VGG.

    ``backbone`` is the whole network that they come from, with its weights, such as ``VGG("vgg16", weights=...)``; the
    rest of it is not kept. Regions have the bins that it was trained with: 7 x 7 for VGG, 6 x 6 for AlexNet.
    ``dropout`` follows each layer in training. ``ranks`` are those of a head that ``svd_compress`` has made faster.

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
        self.channels = layers[1].out_features
        self.build_once(in_channels=backbone.channels[-1])
        self.pool_size = math.isqrt(layers[0].in_features // backbone.channels[-1])
        if ranks is not None:
            _split(self, *ranks)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.fc6(x.flatten(1))), self.dropout, self.training)
        return F.dropout(F.relu(self.fc7(x)), self.dropout, self.training)


class Res5Head(BoxHead):
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
        self.pool_size, self.channels = 14, 2048
        self.layer4 = ResNet(name, weights, stages=[5], frozen=0, norm=norm).layer4
        self.build_once(in_channels=1024)

    def forward(self, x: Tensor) -> Tensor:
        return self.average(self.maps(x))

    def maps(self, x: Tensor) -> Tensor:
        """Compute the maps of conv5, (M, channels, pool_size / 2, pool_size / 2)."""
        return self.layer4(x)  # type: ignore[no-any-return, operator]

    def average(self, maps: Tensor) -> Tensor:
        """Average ``maps`` of conv5 over their pixels, to (M, channels)."""
        return maps.mean(dim=(2, 3))


class BoxPredictor(Part):
    """Two sibling layers: a softmax over the classes and the background, and a box for each class.

    ``delta_weights`` scale the regression targets, by default as in the original implementations. ``smooth_l1_beta`` is
    where the box loss turns from a parabola into a line, 1 in the paper (equation 3) and by default torchvision's 1/9.
    """

    def __init__(
        self, delta_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0), smooth_l1_beta: float = BETA
    ) -> None:
        super().__init__()
        self.delta_weights, self.smooth_l1_beta = delta_weights, smooth_l1_beta

    def build(self, in_channels: int, num_classes: int) -> Self:
        """Create the layers for vectors with ``in_channels`` channels and ``num_classes`` foreground classes."""
        if self.build_once(in_channels=in_channels, num_classes=num_classes):
            self.num_classes = num_classes
            self.cls_score = nn.Linear(in_channels, num_classes + 1)  # the background comes last
            self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
            nn.init.normal_(self.cls_score.weight, std=0.01)  # Fast R-CNN, section 2.3
            nn.init.normal_(self.bbox_pred.weight, std=0.001)
            nn.init.zeros_(self.cls_score.bias)
            nn.init.zeros_(self.bbox_pred.bias)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map vectors (M, in_channels) of M regions to logits (M, K + 1) and deltas (M, K, 4)."""
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (self.num_classes, 4))

    def loss(self, logits: Tensor, deltas: Tensor, regions: Instances, truth: Tensor) -> dict[str, Tensor]:
        """Compute the multi-task loss (Fast R-CNN, equation 1) of labelled ``regions`` (B, R), with M = B * R.

        ``truth`` (B, R, 4) are the boxes of the objects that they show, meaningful where there is one.
        """
        assert regions.labels is not None
        labels, valid = regions.labels.flatten(), regions.valid.flatten()
        positive = valid & (labels < self.num_classes)
        of_class = labels.clamp(max=self.num_classes - 1)[:, None]
        targets = encode(truth.flatten(0, 1), regions.boxes.flatten(0, 1), self.delta_weights)
        box_deltas = take(deltas, of_class)[:, 0]
        return {
            "loss_classifier": class_loss(logits, labels, valid),
            "loss_box_reg": delta_loss(box_deltas, targets, positive, valid.sum(), self.smooth_l1_beta),
        }

    def scores(self, logits: Tensor) -> Tensor:
        """Turn logits (M, K + 1) into probabilities (M, K) of the foreground classes."""
        return as_float(logits).softmax(dim=-1)[:, :-1]


def class_loss(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Compute the mean cross entropy: ``logits`` (M, K + 1), ``labels`` (M,), ``valid`` (M,). Zero if none is valid."""
    loss = F.cross_entropy(as_float(logits), torch.where(valid, labels, 0), reduction="none")
    return torch.where(valid, loss, 0).sum() / valid.sum().clamp(min=1)


def svd_compress(head: TwoMLPHead | ClassifierHead, fc6: int = 1024, fc7: int = 256) -> None:
    """Make a trained head faster: factorise its layers at the ranks ``fc6`` and ``fc7`` (Fast R-CNN, section 3.1).

    Each layer becomes two, its best approximation of that rank; the default ranks are VGG-16's (section 4.4). The
    layers are replaced in place; a checkpoint that is written afterwards is one of the faster head.

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
    """Set ``layers`` to W = U S V^T of ``layer``, cut to their rank: S V^T without a bias, then U with the bias."""
    # U are the eigenvectors of W W^T, and S V^T = U^T W: the large V is not needed.
    weight = layer.weight.double()
    u = torch.linalg.eigh(weight @ weight.T).eigenvectors[:, -layers[0].out_features :]
    layers[0].weight.copy_(u.T @ weight)
    layers[1].weight.copy_(u)
    layers[1].bias.copy_(layer.bias)
