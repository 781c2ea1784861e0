"""FCN on a dilated ResNet, torchvision's fcn_resnet50 and fcn_resnet101."""

from __future__ import annotations

from torch import Tensor, nn

from detseg.models.segmenter import Criterion, Segmenter, pad, upsample
from detseg.modules.backbones import Backbone
from detseg.modules.layers import ConvNormAct
from detseg.structures import Batch

AUXILIARY_WEIGHT = 0.5  # torchvision's; PSPNet's is 0.4


class DilatedFCN(Segmenter):
    """Two convolutions on the last map of a dilated backbone, and bilinear upsampling.

    The backbone is ``ResNet("resnet50", stages=[4, 5], output_stride=8)``: conv4 and conv5 keep the stride of conv3 and
    use dilated convolutions (Yu and Koltun 2016, arXiv:1511.07122). During training an auxiliary head on the map before
    the last one adds its loss, times ``auxiliary_weight`` (Zhao et al. 2017, arXiv:1612.01105, section 4); 0 removes
    the head.

    Raises ValueError if the backbone has no second map for the auxiliary head.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        auxiliary_weight: float = AUXILIARY_WEIGHT,
        criterion: Criterion = "cross_entropy",
    ) -> None:
        super().__init__(num_classes, criterion)
        if auxiliary_weight and len(backbone.channels) < 2:
            raise ValueError("the auxiliary head needs a second map: stages [4, 5], or auxiliary_weight 0")
        self.backbone = backbone
        self.stride = backbone.strides[-1]
        self.auxiliary_weight = auxiliary_weight
        self.head = _head(backbone.channels[-1], num_classes)
        self.auxiliary = _head(backbone.channels[-2], num_classes) if auxiliary_weight else None

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> Tensor:
        return self._logits(images, image_sizes, [self.head])[0]

    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        heads = [self.head] if self.auxiliary is None else [self.head, self.auxiliary]
        logits, *others = self._logits(batch.images, batch.image_sizes, heads)
        losses = {"loss_pixels": self.pixel_loss(logits, batch)}
        if others:
            losses["loss_auxiliary"] = self.auxiliary_weight * self.pixel_loss(others[0], batch)
        return losses, logits

    def _logits(self, images: Tensor, image_sizes: Tensor | None, heads: list[nn.Sequential]) -> list[Tensor]:
        """Compute the logits of every pixel from the last map, then from the map before it, one for each head."""
        height, width = images.shape[-2:]
        images, image_sizes = pad(images, image_sizes, self.backbone.strides[-1])
        maps = reversed(self.backbone(images, image_sizes))
        return [upsample(head(x), images)[..., :height, :width] for head, x in zip(heads, maps, strict=False)]


def _head(channels: int, num_classes: int) -> nn.Sequential:
    hidden = channels // 4
    return nn.Sequential(
        ConvNormAct(channels, hidden, 3, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(0.1),
        nn.Conv2d(hidden, num_classes, 1),
    )
