"""Feature pyramid network (Lin et al. 2017, arXiv:1612.03144)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detseg.modules.backbones.backbone import Backbone
from detseg.modules.backbones.norm import Norm
from detseg.modules.conv import ConvNormAct


class FPN(Backbone):
    """Makes every map of ``backbone`` as rich as its coarsest, all with the same number of ``channels`` (section 3).

    The maps are P2 to P5, say, and one more of twice the stride, subsampled from the last, on which only the region
    proposal network looks, for the largest anchors (section 4.1). Where two maps of ``backbone`` have the same stride,
    the features of regions come from the finer one alone. Images are normalised by ``backbone``. The paper has no ``norm``;
    what came later has batch norm after each layer (Li et al. 2021, arXiv:2111.11429).
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
        raise ValueError("a pyramid is no classifier: its finer maps would learn nothing; take its backbone")

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
        maps = [layer(feature) for layer, feature in zip(self.lateral_convs, self.backbone(images, sizes), strict=True)]
        for finer in reversed(range(len(maps) - 1)):
            enlarged = F.interpolate(maps[finer + 1], size=maps[finer].shape[-2:], mode="nearest")
            maps[finer] = enlarged.add_(maps[finer])  # in place, for these maps are large
        features = [layer(feature) for layer, feature in zip(self.output_convs, maps, strict=True)]
        return [*features, features[-1][:, :, ::2, ::2]]
