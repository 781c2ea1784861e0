"""R-CNN (Girshick et al. 2014, arXiv:1311.2524v5): a convolutional network that sees each region as an image."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from detseg.models.detector import Detector, require_proposals, seeds_of
from detseg.modules.backbones.backbone import Backbone
from detseg.modules.box_head import class_loss
from detseg.modules.eval_mode import eval_mode
from detseg.modules.part import check_ranges
from detseg.modules.postprocessor import Postprocessor
from detseg.modules.roi_heads import label_regions
from detseg.modules.target_assignment import NEGATIVE, POSITIVE, BalancedSampler, Matcher
from detseg.ops.boxes import as_float
from detseg.ops.warping import warp
from detseg.structures import Batch, Instances, drop_padding

GRID = 3  # bins along each side of a map that the network itself would average over all its pixels


class Features(NamedTuple):
    """Features of regions from two places of the network."""

    hidden: Tensor  # (..., D) for classes: fc7
    grid: Tensor  # (..., E) for boxes: pool5


class RCNN(Detector):
    """Classify and refine proposals that come with the images, each of which runs through the whole network.

    ``backbone`` is a whole network, such as ``AlexNet(weights=...)``, with the arithmetic that it was published with.
    All but the last layer of its classifier remain; a new one tells ``num_classes`` foreground classes and the
    background apart. Its inputs are the features for the classes: fc7 of AlexNet and VGG, the average of the last map
    of most others. The features for the boxes are the last map as the network's own pooling leaves it, pool5 of 6 x 6
    or 7 x 7 bins, and 3 x 3 bins of a network that averages over the whole map.

    The other defaults are the paper's values or those of its implementation. A region becomes ``crop_size`` x
    ``crop_size`` pixels, with ``context`` of them at each edge around it (appendix A). For training, ``sampler`` draws
    from all regions of a batch together; two images make 32 objects, at IoU >= 0.5, and 96 others (section 2.3).
    ``scores`` are those of a support vector machine for each class, or the network's own softmax (appendix B);
    ``box_regression`` refines boxes (appendix C). Both are fitted afterwards, see ``RCNNTask``. The score of a margin m
    is sigmoid(m), 0.5 where the machine decides. At inference ``crops_per_batch`` regions run together.

    Raises ValueError for values that make no sense, and a ``crop_size`` that is too small for the network; its methods
    DataError without proposals.
    """

    needs_proposals = True
    delta_weights = (10.0, 10.0, 5.0, 5.0)  # of the regression targets, as in ``BoxPredictor``

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        crop_size: int = 227,
        context: int = 16,
        scores: Literal["svm", "softmax"] = "svm",
        box_regression: bool = True,
        matcher: Matcher | None = None,
        sampler: BalancedSampler | None = None,
        postprocessor: Postprocessor | None = None,
        crops_per_batch: int = 128,
    ) -> None:
        super().__init__()
        check_ranges({"crops_per_batch": crops_per_batch}, {})
        if scores not in ("svm", "softmax"):
            raise ValueError(f"scores is {scores}, and must be svm or softmax")
        if not 0 <= 2 * context < crop_size:
            raise ValueError(f"context is {context}, and must leave something of crop_size {crop_size}")

        self.num_classes = num_classes
        self.backbone = backbone
        head, _ = backbone.classifier(num_classes=1000)  # as published; the last layer goes
        self.hidden, self.grid = _without_last_layer(head), _pooling(head)
        channels, places = self._channels(crop_size)
        self.cls_score = nn.Linear(channels, num_classes + 1)  # the background comes last
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.zeros_(self.cls_score.bias)
        self.svms = nn.Linear(channels, num_classes)
        self.bbox_pred = nn.Linear(places, 4 * num_classes)
        for layer in (self.svms, self.bbox_pred):  # fitted in one go, not by gradients; until then they find nothing
            layer.requires_grad_(False)
            nn.init.constant_(layer.weight, torch.nan)

        self.crop_size, self.context, self.crops_per_batch = crop_size, context, crops_per_batch
        self.scores, self.box_regression = scores, box_regression
        self.matcher = matcher or Matcher(0.5, 0.5, allow_low_quality_matches=False)
        self.sampler = sampler or BalancedSampler(64, 0.25)
        self.postprocessor = postprocessor or Postprocessor(nms_threshold=0.3)

    @property
    def complete(self) -> bool:
        """True if every layer that detections depend on has been fitted."""
        used = [self.svms] * (self.scores == "svm") + [self.bbox_pred] * self.box_regression
        return not any(layer.weight.isnan().any() for layer in used)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss_classifier": class_loss(*self.classify(batch))}

    def forward(self, images: Tensor, image_sizes: Tensor, proposals: Instances | None = None) -> Instances:
        regions = drop_padding(require_proposals(proposals, "R-CNN"))
        return self.detect(self.features(images, image_sizes, regions), regions, image_sizes)

    def classify(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (M, K + 1) of regions that are sampled for training, their labels (M,), and valid (M,).

        The label ``num_classes`` is the background.
        """
        proposals = require_proposals(batch.proposals, "R-CNN")
        regions, _, match_labels, priority = label_regions(
            proposals, batch.targets, self.num_classes, self.matcher, seeds_of(batch)
        )
        assert regions.labels is not None
        boxes, labels = regions.boxes.flatten(0, 1), regions.labels.flatten()
        positive, negative = (((match_labels == label) & regions.valid).view(1, -1) for label in (POSITIVE, NEGATIVE))
        (sampled,), (valid,) = self.sampler(positive, negative, priority.view(1, -1), len(batch.images))
        drawn = torch.where(valid[:, None], boxes[sampled], 0)
        features = self._crop_features(batch.images, batch.image_sizes, drawn, sampled // regions.valid.shape[1])
        return self.cls_score(features.hidden), labels[sampled], valid

    def features(self, images: Tensor, image_sizes: Tensor, regions: Instances) -> Features:
        """Compute features (B, R, ...) of regions (B, R), of ``crops_per_batch`` at once."""
        boxes = torch.where(regions.valid[..., None], regions.boxes, 0)  # padding may hold anything
        parts = []
        for part in torch.split(boxes, max(1, self.crops_per_batch // max(1, len(boxes))), dim=1):
            image_index = torch.arange(len(part), device=part.device).repeat_interleave(part.shape[1])
            features = self._crop_features(images, image_sizes, part.flatten(0, 1), image_index)
            parts.append([each.view(*part.shape[:2], each.shape[-1]) for each in features])
        return Features(*(torch.cat(each, dim=1) for each in zip(*parts, strict=True)))

    def detect(self, features: Features, regions: Instances, image_sizes: Tensor) -> Instances:
        """Return detections from the features of regions: scores, boxes, and NMS."""
        hidden, grid = map(as_float, features)
        with torch.autocast(hidden.device.type, enabled=False):  # half precision has too few digits to rank 2,000
            if self.scores == "svm":
                scores = self.svms(hidden).sigmoid()
            else:
                scores = self.cls_score(hidden).softmax(dim=-1)[..., :-1]
            if self.box_regression:
                deltas = self.bbox_pred(grid).unflatten(-1, (self.num_classes, 4))
            else:
                deltas = grid.new_zeros(*scores.shape, 4)
        return self.postprocessor(scores, deltas, regions, image_sizes, self.delta_weights)

    def _crop_features(self, images: Tensor, image_sizes: Tensor, boxes: Tensor, image_index: Tensor) -> Features:
        """Compute features of boxes (M, 4) in the images with these indices (M,)."""
        crops = warp(images, image_sizes, boxes, image_index, self.crop_size, self.context, self.backbone.mean)
        last = self.backbone.classifier_features(crops)
        return Features(self.hidden(last), self.grid(last))

    @torch.no_grad()
    def _channels(self, size: int) -> tuple[int, int]:
        """Return the numbers of features, by trial. Raises ValueError if images of this size are too small."""
        image = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=next(self.parameters()).device)
        try:
            with eval_mode(self):
                last = self.backbone.classifier_features(image)
                return self.hidden(last).shape[1], self.grid(last).shape[1]
        except RuntimeError as error:
            raise ValueError(f"crop_size {size}: too small for {type(self.backbone).__name__}: {error}") from None


def _layers(head: nn.Module) -> list[nn.Module]:
    return [layer for layer in head.modules() if not list(layer.children())]


def _without_last_layer(head: nn.Module) -> nn.Sequential:
    """Cut a classifier before its last layer with weights; average the map if that layer saw one."""
    layers = _layers(head)
    position = max(i for i, layer in enumerate(layers) if isinstance(layer, (nn.Linear, nn.Conv2d)))
    kept = layers[:position]
    if isinstance(layers[position], nn.Conv2d):
        kept += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*kept)


def _pooling(head: nn.Module) -> nn.Sequential:
    """Return the pooling that a classifier begins with, or one to ``GRID`` bins if that leaves a single bin."""
    poolings = (layer for layer in _layers(head) if isinstance(layer, nn.AdaptiveAvgPool2d))
    first = next((layer for layer in poolings if layer.output_size not in (1, (1, 1))), nn.AdaptiveAvgPool2d(GRID))
    return nn.Sequential(first, nn.Flatten())
