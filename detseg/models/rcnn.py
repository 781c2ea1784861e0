"""R-CNN (Girshick et al. 2014, arXiv:1311.2524v5): a convolutional network that sees each region as an image."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from detseg.models.detector import Detector, check, require_proposals
from detseg.modules.backbones.backbone import Backbone
from detseg.modules.box_head import best_detections, label_regions
from detseg.ops import boxes as box_ops
from detseg.ops.losses import class_loss
from detseg.ops.sampling import sample
from detseg.ops.warping import warp
from detseg.structures import Batch, Instances, drop_padding

GRID = 3  # bins along each side of a map that the network itself would average over all its pixels


class Features(NamedTuple):
    """What the network says of regions."""

    hidden: Tensor  # (..., D) what it takes for a decision: fc7
    grid: Tensor  # (..., E) what it takes for a place: pool5


class RCNN(Detector):
    """Classes and boxes for proposals that come with the images, each of which runs through the whole network.

    ``backbone`` is a whole network, such as ``AlexNet(weights=...)``, taken as it was published. All but the last layer
    of its classifier remain; a new one tells ``num_classes`` foreground classes and the background apart. What it would
    be given are the features for the classes: fc7 of AlexNet and VGG, the average of the last map of most others. The
    features for the boxes are the last map as its own pooling leaves it, pool5 of 6 x 6 or 7 x 7 bins, and of a network
    that averages over all the map 3 x 3 bins.

    The other defaults are the paper's values or those of its implementation. A region becomes ``size`` x ``size``
    pixels, with ``context`` of them at each edge around it (appendix A). For training ``samples`` regions an image are
    drawn, from all of a batch together and at most ``positive_fraction`` of them objects, at IoU >= ``iou``; two images
    make 32 and 96 (section 2.3). ``scores`` are those of a support vector machine for each class, or the network's own
    softmax (appendix B); ``box_regression`` says whether boxes are refined (appendix C). Both are fitted afterwards,
    see ``RCNNTask``. The score of a margin m is sigmoid(m), 0.5 where the machine decides. At inference ``batch``
    regions are looked at together; of the ``candidates`` best (region, class) pairs ``detections`` an image leave the
    suppression.

    Raises ValueError for values that make no sense, and a ``size`` that is too small for the network; its methods
    DataError if there are no proposals.
    """

    needs_proposals = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        size: int = 227,
        context: int = 16,
        scores: Literal["svm", "softmax"] = "svm",
        box_regression: bool = True,
        iou: float = 0.5,
        samples: int = 64,
        positive_fraction: float = 0.25,
        score_threshold: float = 0.05,
        nms: float = 0.3,
        candidates: int = 2000,
        detections: int = 100,
        batch: int = 128,
    ) -> None:
        super().__init__()
        counts = {"samples": samples, "candidates": candidates, "detections": detections, "batch": batch}
        shares = {"iou": iou, "positive_fraction": positive_fraction, "score_threshold": score_threshold, "nms": nms}
        check(counts, shares)
        if scores not in ("svm", "softmax"):
            raise ValueError(f"scores is {scores}, and must be svm or softmax")
        if not 0 <= 2 * context < size:
            raise ValueError(f"context is {context}, and must leave something of size {size}")

        self.num_classes = num_classes
        self.backbone = backbone
        head, _ = backbone.classifier(num_classes=1000)  # as published; the last layer goes
        self.hidden, self.grid = _without_last_layer(head), _pooling(head)
        channels, places = self._channels(size)
        self.classes = nn.Linear(channels, num_classes + 1)  # the background comes last
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.zeros_(self.classes.bias)
        self.svms = nn.Linear(channels, num_classes)
        self.deltas = nn.Linear(places, 4 * num_classes)
        for layer in (self.svms, self.deltas):  # fitted in one go, not by gradients; until then they find nothing
            layer.requires_grad_(False)
            nn.init.constant_(layer.weight, torch.nan)

        self.size, self.context = size, context
        self.scores, self.box_regression = scores, box_regression
        self.iou, self.samples, self.positive_fraction = iou, samples, positive_fraction
        self.score_threshold, self.nms = score_threshold, nms
        self.candidates, self.detections, self.batch = candidates, detections, batch

    @property
    def complete(self) -> bool:
        """Whether all that detections are made with has been fitted."""
        used = [self.svms] * (self.scores == "svm") + [self.deltas] * self.box_regression
        return not any(layer.weight.isnan().any() for layer in used)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"class": class_loss(*self.classify(batch))}

    def forward(self, images: Tensor, sizes: Tensor, proposals: Instances | None = None) -> Instances:
        regions = drop_padding(require_proposals(proposals, "R-CNN"))
        return self.detect(self.features(images, sizes, regions), regions, sizes)

    def classify(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (M, K + 1) of regions that are drawn for training, their labels (M,), and which are valid (M,).

        The label ``num_classes`` is the background.
        """
        regions, _, _ = label_regions(
            require_proposals(batch.proposals, "R-CNN"), batch.targets, self.num_classes, self.iou
        )
        assert regions.labels is not None
        boxes, valid, labels = regions.boxes.flatten(0, 1), regions.valid.flatten(), regions.labels.flatten()
        objects, background = ((valid & kind)[None] for kind in (labels < self.num_classes, labels == self.num_classes))
        count = self.samples * len(batch.images)
        chosen, valid = sample(objects, background, count, self.positive_fraction)
        chosen, valid = chosen[0], valid[0]
        drawn = torch.where(valid[:, None], boxes[chosen], 0)
        features = self._see(batch.images, batch.image_sizes, drawn, chosen // regions.valid.shape[1])
        return self.classes(features.hidden), labels[chosen], valid

    def features(self, images: Tensor, sizes: Tensor, regions: Instances) -> Features:
        """Features (B, R, ...) of regions (B, R), of so many at once as ``batch`` says."""
        boxes = torch.where(regions.valid[..., None], regions.boxes, 0)  # padding may hold anything
        found = []
        for part in torch.split(boxes, max(1, self.batch // max(1, len(boxes))), dim=1):
            rows = torch.arange(len(part), device=part.device).repeat_interleave(part.shape[1])
            seen = self._see(images, sizes, part.flatten(0, 1), rows)
            found.append([each.view(*part.shape[:2], each.shape[-1]) for each in seen])
        return Features(*(torch.cat(parts, dim=1) for parts in zip(*found, strict=True)))

    def detect(self, features: Features, regions: Instances, sizes: Tensor) -> Instances:
        """Detections by the features of the regions: their scores, their boxes, and suppression."""
        hidden, grid = map(box_ops.as_float, features)
        with torch.autocast(hidden.device.type, enabled=False):  # half precision has too few digits to rank 2,000
            if self.scores == "svm":
                scores = self.svms(hidden).sigmoid()
            else:
                scores = self.classes(hidden).softmax(dim=-1)[..., :-1]
            deltas = (
                self.deltas(grid) if self.box_regression else grid.new_zeros(*scores.shape[:2], 4 * scores.shape[2])
            )
        return best_detections(
            scores,
            deltas.unflatten(-1, (self.num_classes, 4)),
            regions,
            sizes,
            self.score_threshold,
            self.nms,
            self.candidates,
            self.detections,
        )

    def _see(self, images: Tensor, sizes: Tensor, boxes: Tensor, rows: Tensor) -> Features:
        """Features of boxes (M, 4), each of the image in its row."""
        crops = warp(images, sizes, boxes, rows, self.size, self.context, self.backbone.mean)
        last = self.backbone.classifier_features(crops)
        return Features(self.hidden(last), self.grid(last))

    @torch.no_grad()
    def _channels(self, size: int) -> tuple[int, int]:
        """Numbers of features, by trial. Raises ValueError if the network cannot take images of this size."""
        training = self.training
        device = next(self.parameters()).device
        self.eval()
        try:
            image = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device)
            last = self.backbone.classifier_features(image)
            return self.hidden(last).shape[1], self.grid(last).shape[1]
        except RuntimeError as error:
            raise ValueError(f"size {size}: too small for {type(self.backbone).__name__}: {error}") from None
        finally:
            self.train(training)


def _layers(head: nn.Module) -> list[nn.Module]:
    return [layer for layer in head.modules() if not list(layer.children())]


def _without_last_layer(head: nn.Module) -> nn.Sequential:
    """A classifier without its last layer with weights and what follows; where that saw a map, its average."""
    layers = _layers(head)
    position = max(i for i, layer in enumerate(layers) if isinstance(layer, (nn.Linear, nn.Conv2d)))
    kept = layers[:position]
    if isinstance(layers[position], nn.Conv2d):
        kept += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*kept)


def _pooling(head: nn.Module) -> nn.Sequential:
    """The pooling that a classifier begins with, unless it leaves nothing of where things are."""
    own = (layer for layer in _layers(head) if isinstance(layer, nn.AdaptiveAvgPool2d))
    first = next((layer for layer in own if layer.output_size not in (1, (1, 1))), nn.AdaptiveAvgPool2d(GRID))
    return nn.Sequential(first, nn.Flatten())
