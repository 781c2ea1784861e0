"""ResNet (He et al. 2015, arXiv:1512.03385)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torchvision
from torch import Tensor

from detseg.modules.backbones.backbone import Backbone, Norm, known_frozen, known_norm, known_stages, load_weights


class ResNet(Backbone):
    """The stages conv2 to conv5 of a ResNet; each is one map, of stride 4, 8, 16 and 32.

    ``stages`` are the ones whose maps are returned (and the network ends with the last of them): ``[2, 3, 4, 5]`` for a
    feature pyramid, ``[4]`` for a single map. ``frozen`` counts the stages that do not train, conv1 being the first.
    By default, pretrained networks keep conv1, conv2 and the statistics and scales of batch norm as they are, as is
    usual since a batch of detection is too small to estimate them, and networks without weights train everything.

    With ``weights`` (see ``load_weights``), raises CheckpointError if they do not fit.
    """

    def __init__(
        self,
        name: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet50",
        weights: str | None = None,
        stages: Sequence[int] = (2, 3, 4, 5),
        frozen: int | None = None,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        network = torchvision.models.get_model(name, weights=None, norm_layer=known_norm(norm, weights))
        load_weights(network, name, weights)
        self.conv1, self.bn1, self.relu, self.maxpool = network.conv1, network.bn1, network.relu, network.maxpool
        self.stages = known_stages(stages, range(2, 6))
        for stage in range(2, self.stages[-1] + 1):
            setattr(self, f"layer{stage - 1}", getattr(network, f"layer{stage - 1}"))
        widths = [64, 128, 256, 512] if name in ("resnet18", "resnet34") else [256, 512, 1024, 2048]
        self.channels = [widths[stage - 2] for stage in self.stages]
        self.strides = [2**stage for stage in self.stages]
        parts = [[self.conv1, self.bn1], *([getattr(self, f"layer{s - 1}")] for s in range(2, self.stages[-1] + 1))]
        self.freeze([module for part in parts[: known_frozen(frozen, weights, len(parts))] for module in part])

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
        features = []
        x = self.maxpool(self.relu(self.bn1(self.conv1(self.normalize(images, sizes)))))
        for stage in range(2, self.stages[-1] + 1):
            x = getattr(self, f"layer{stage - 1}")(x)
            if stage in self.stages:
                features.append(x)
        return features
