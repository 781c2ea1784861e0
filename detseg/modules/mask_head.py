"""From the features of a region to the mask of the object in it (Mask R-CNN, section 3 and figure 4)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detseg.modules.backbones.norm import Norm
from detseg.modules.conv import ConvNormAct
from detseg.ops.losses import mask_loss
from detseg.ops.masks import mask_targets
from detseg.structures import Instances


class MaskHead(nn.Module):
    """A small fully convolutional network that gives a mask for each class, which do not compete (section 3).

    ``convs`` convolutions, then one that doubles the side, then a logit for each class: over a pyramid four of them, on
    14 x 14 bins; behind the conv5 of a ResNet none (figure 4). The paper has no ``norm`` after them.
    """

    def __init__(
        self, in_channels: int, num_classes: int, convs: int = 4, channels: int = 256, norm: Norm | None = None
    ) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * convs]
        self.convs = nn.ModuleList(ConvNormAct(widths[i], channels, 3, norm) for i in range(convs))
        self.deconv = nn.ConvTranspose2d(widths[-1], channels, 2, stride=2)
        self.logits = nn.Conv2d(channels, num_classes, 1)
        for layer in (*self.convs, self.deconv, self.logits):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        for layer in (*self.convs, self.deconv):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.logits.weight, std=0.001)  # undecided at first, as in the original implementation

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Features (M, in_channels, size, size) of M regions and their classes (M,) to logits (M, 2 size, 2 size)."""
        for conv in self.convs:
            x = F.relu(conv(x), inplace=True)
        # The windows of ``deconv`` do not overlap: the four pixels of each are four times the channels of a convolution
        # of 1 x 1. Of these only the logit of the region's class is needed, and that alone is put in its place.
        assert self.deconv.bias is not None
        assert self.logits.bias is not None
        weight, (regions, _, height, width) = self.deconv.weight, x.shape
        windows = weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0], 1, 1)
        x = F.relu(F.conv2d(x, windows, self.deconv.bias.repeat(4)), inplace=True)
        of_class = F.embedding(labels, self.logits.weight.flatten(1))[..., None]
        logits = x.permute(0, 2, 3, 1).reshape(regions, 4 * height * width, weight.shape[1]) @ of_class
        logits = logits[..., 0] + F.embedding(labels, self.logits.bias[:, None])
        places = logits.view(regions, height, width, 2, 2).transpose(2, 3)
        return places.reshape(regions, 2 * height, 2 * width)

    def loss(self, logits: Tensor, regions: Instances, targets: Instances, matched: Tensor) -> dict[str, Tensor]:
        """How far the masks of objects are from the truth; only the mask of an object's class learns (section 3).

        ``logits`` (B * R, size, size) of ``regions`` (B, R), those that are valid being objects; ``targets`` with
        masks (B, N, S, S) as ``ops.masks.mask_targets`` takes them, and the target that each region belongs to,
        ``matched`` (B, R).
        """
        assert targets.masks is not None
        side = targets.masks.shape[-1]
        masks = targets.masks.gather(1, matched[..., None, None].expand(-1, -1, side, side))
        boxes = targets.boxes.gather(1, matched[..., None].expand(-1, -1, 4))
        truth = mask_targets(masks, boxes, regions.boxes, logits.shape[-1])
        return {"mask": mask_loss(logits, truth.flatten(0, 1), regions.valid.flatten())}
