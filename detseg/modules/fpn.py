"""Feature pyramid network (Lin et al. 2017, arXiv:1612.03144)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detseg.modules.backbones.backbone import Backbone
from detseg.modules.backbones.norm import Norm
from detseg.modules.layers import ConvNormAct


class FPN(Backbone):
    """A pyramid of maps with ``channels`` channels each, over the maps of ``backbone`` (section 3).

    The maps are, for example, P2 to P5, and one more of twice the stride, subsampled from the last, which only the
    region proposal network uses, for the largest anchors (section 4.1). Of two maps of ``backbone`` with the same
    stride, only the finer one provides features of regions. ``backbone`` normalises the images. The paper has no
    ``norm``; later work has batch norm after each layer (Li et al. 2021, arXiv:2111.11429).
    """

    def __init__(self, backbone: Backbone, channels: int = 256, norm: Norm | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.lateral_convs = nn.ModuleList(ConvNormAct(width, channels, 1, norm) for width in backbone.channels)
        self.output_convs = nn.ModuleList(ConvNormAct(channels, channels, 3, norm) for _ in backbone.channels)
        for layer in (*self.lateral_convs, *self.output_convs):
            nn.init.kaiming_uniform_(layer.weight, a=1)
        self.channels = [channels] * (len(backbone.channels) + 1)
        self.strides = [*backbone.strides, 2 * backbone.strides[-1]]
        self.num_rpn_only_levels = 1 + len(backbone.strides) - len(set(backbone.strides))

    def classifier(self, num_classes: int) -> tuple[nn.Module, dict[str, nn.Module]]:
        raise ValueError("a feature pyramid is not a classifier: its finer maps would not train; use its backbone")

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> list[Tensor]:
        features = self.fuse(self.backbone(images, image_sizes))
        return [*features, features[-1][:, :, ::2, ::2]]

    def fuse(self, bottom_up: list[Tensor]) -> list[Tensor]:
        """Merge the backbone's maps from the coarsest down (figure 3)."""
        maps = [conv(feature) for conv, feature in zip(self.lateral_convs, bottom_up, strict=True)]
        for finer in reversed(range(len(maps) - 1)):
            enlarged = F.interpolate(maps[finer + 1], size=maps[finer].shape[-2:], mode="nearest")
            maps[finer] = enlarged.add_(maps[finer])  # in place, for these maps are large
        return [conv(feature) for conv, feature in zip(self.output_convs, maps, strict=True)]
