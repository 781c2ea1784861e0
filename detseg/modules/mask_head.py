"""From features of regions to masks of the objects in them (Mask R-CNN, section 3 and figure 4)."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detseg.modules.backbones.norm import Norm
from detseg.modules.layers import ConvNormAct
from detseg.modules.part import Part, check_ranges
from detseg.ops.boxes import as_float, take
from detseg.ops.masks import mask_targets
from detseg.structures import Instances


class MaskHead(Part):
    """A small fully convolutional network with a mask for each class; classes do not compete (section 3).

    ``num_convs`` convolutions, then one that doubles the side, then a logit for each class: by default four of them on
    pooled features, and none on the maps of a conv5 that the box head shares (figure 4). The paper has no ``norm``
    after them; later work has batch norm (Li et al. 2021, arXiv:2111.11429).
    """

    def __init__(self, num_convs: int | None = None, channels: int = 256, norm: Norm | None = None) -> None:
        super().__init__()
        check_ranges({"channels": channels}, {})
        self.num_convs, self.channels, self.norm = num_convs, channels, norm

    def build(self, in_channels: int, num_classes: int, shares_conv5: bool) -> Self:
        """Create the layers for features of so many channels."""
        if self.build_once(in_channels=in_channels, num_classes=num_classes):
            if self.num_convs is None:
                self.num_convs = 0 if shares_conv5 else 4
            widths = [in_channels, *[self.channels] * self.num_convs]
            self.convs = nn.ModuleList(ConvNormAct(width, self.channels, 3, self.norm) for width in widths[:-1])
            self.conv5_mask = nn.ConvTranspose2d(widths[-1], self.channels, 2, stride=2)
            self.mask_fcn_logits = nn.Conv2d(self.channels, num_classes, 1)
            for layer in (*self.convs, self.conv5_mask, self.mask_fcn_logits):
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            for layer in (*self.convs, self.conv5_mask):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.normal_(self.mask_fcn_logits.weight, std=0.001)  # undecided at first, as in detectron2
        return self

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Map features (M, in_channels, size, size) of M regions of classes (M,) to logits (M, 2 size, 2 size)."""
        for conv in self.convs:
            x = F.relu(conv(x), inplace=True)
        # The windows of ``conv5_mask`` do not overlap: the four pixels of each are four times the channels of a 1 x 1
        # convolution. Of these only the logit of the region's class is needed, and that alone is put in its place.
        assert self.conv5_mask.bias is not None
        assert self.mask_fcn_logits.bias is not None
        weight, (regions, _, height, width) = self.conv5_mask.weight, x.shape
        windows = weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0], 1, 1)
        x = F.relu(F.conv2d(x, windows, self.conv5_mask.bias.repeat(4)), inplace=True)
        of_class = F.embedding(labels, self.mask_fcn_logits.weight.flatten(1))[..., None]
        logits = x.permute(0, 2, 3, 1).reshape(regions, 4 * height * width, weight.shape[1]) @ of_class
        logits = logits[..., 0] + F.embedding(labels, self.mask_fcn_logits.bias[:, None])
        places = logits.view(regions, height, width, 2, 2).transpose(2, 3)
        return places.reshape(regions, 2 * height, 2 * width)

    def loss(self, logits: Tensor, regions: Instances, targets: Instances, matched: Tensor) -> dict[str, Tensor]:
        """Compute the mean binary cross entropy of the pixels of objects' masks, of their own classes (section 3).

        ``logits`` (B * R, size, size) of ``regions`` (B, R), of which the valid ones are objects; ``targets`` with
        masks (B, N, S, S) as ``ops.masks.mask_targets`` takes them; and the target that each region shows, ``matched``
        (B, R).
        """
        assert targets.masks is not None
        masks = take(targets.masks, matched)
        boxes = take(targets.boxes, matched)
        truth = mask_targets(masks, boxes, regions.boxes, logits.shape[-1]).flatten(0, 1)
        valid = regions.valid.flatten()[:, None, None]
        loss = F.binary_cross_entropy_with_logits(as_float(logits), torch.where(valid, truth, 0), reduction="none")
        pixels = valid.sum().clamp(min=1) * logits.shape[1] * logits.shape[2]
        return {"loss_mask": torch.where(valid, loss, 0).sum() / pixels}
