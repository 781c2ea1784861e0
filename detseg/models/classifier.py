"""A backbone with the head that it was born with: what ImageNet trains, and what R-CNN starts from."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detseg.models.model import Model
from detseg.modules.backbones import Backbone, ConvNet
from detseg.preprocessing import CenterCropConfig, Preprocessing
from detseg.structures import Batch

AUXILIARY_WEIGHT = 0.3  # of the loss of each classifier at the side (GoogLeNet, section 5)


class Classifier(Model):
    """Says which of ``num_classes`` classes an image shows.

    ``backbone`` must be whole; images pass it with the arithmetic of the published network. Its weights come with
    those of the head, as far as they are for so many classes; a last layer for others begins at random.

    Raises ValueError if the backbone has been cut short, or is none of a classifier's.
    """

    preprocessing: Preprocessing = CenterCropConfig()

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.head, auxiliary = backbone.classifier(num_classes)
        self.auxiliary = nn.ModuleDict(auxiliary)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), uint8, to logits (B, K)."""
        return self.head(self.backbone.classifier_features(images))  # type: ignore[no-any-return]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy of every classifier with the class of each image, its one target."""
        assert batch.targets.labels is not None
        labels = batch.targets.labels[:, 0]
        if not self.auxiliary:
            return {"class": F.cross_entropy(self(batch.images), labels)}
        backbone = self.backbone
        assert isinstance(backbone, ConvNet)
        blocks = [*(backbone.auxiliary_inputs[name] for name in self.auxiliary), backbone.block_names[-1]]
        *maps, last = backbone.forward_intermediates(batch.images, blocks, stride_aligned=False)
        losses = {"class": F.cross_entropy(self.head(last), labels)}
        for (name, classifier), x in zip(self.auxiliary.items(), maps, strict=True):
            losses[name.lower()] = AUXILIARY_WEIGHT * F.cross_entropy(classifier(x), labels)
        return losses
