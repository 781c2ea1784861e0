"""Image classifier: a backbone with its published head, as trained on ImageNet."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detseg.models.model import Model
from detseg.modules.backbones import Backbone, ConvNet
from detseg.preprocessing import CenterCropConfig, Preprocessing
from detseg.structures import Batch

AUXILIARY_WEIGHT = 0.3  # of the loss of each auxiliary classifier (GoogLeNet, section 5)


class Classifier(Model):
    """Classify an image into ``num_classes`` classes.

    ``backbone`` must end with its last stage; the forward pass is that of the published network. Its weights include
    those of the head, except a last layer for another number of classes, which begins at random.

    Raises ValueError if the backbone ends earlier or is not a classifier's.
    """

    preprocessing: Preprocessing = CenterCropConfig()

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.head, auxiliary = backbone.classifier(num_classes)
        self.auxiliary = nn.ModuleDict(auxiliary)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (B, K) of images (B, 3, H, W), uint8."""
        return self.head(self.backbone.classifier_features(images))  # type: ignore[no-any-return]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the cross entropy of every classifier, the auxiliary ones included; each image has one target."""
        assert batch.targets.labels is not None
        return self.cross_entropies(batch.images, batch.targets.labels[:, 0])

    def cross_entropies(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the cross entropies of images (B, 3, H, W), uint8, with the labels (B,), weighted as for the loss."""
        if not self.auxiliary:
            return {"loss_classifier": F.cross_entropy(self(images), labels)}
        backbone = self.backbone
        assert isinstance(backbone, ConvNet)
        blocks = [*(backbone.auxiliary_inputs[name] for name in self.auxiliary), backbone.block_names[-1]]
        *maps, last = backbone.forward_intermediates(images, blocks, stride_aligned=False)
        losses = {"loss_classifier": F.cross_entropy(self.head(last), labels)}
        for (name, classifier), x in zip(self.auxiliary.items(), maps, strict=True):
            losses[f"loss_{name.lower()}"] = AUXILIARY_WEIGHT * F.cross_entropy(classifier(x), labels)
        return losses
