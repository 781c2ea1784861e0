"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381)."""

from __future__ import annotations

from collections.abc import Sequence

import torchvision
from torch import Tensor

from detseg.modules.backbones.backbone import Backbone, Norm, known_frozen, known_norm, known_stages, load_weights

# The last block of each stride in torchvision's `features`: 2, 4, 8, 16, 32.
LAST_BLOCKS = {1: 1, 2: 3, 3: 6, 4: 13, 5: 18}


class MobileNetV2(Backbone):
    """The stages of MobileNetV2; stage s is the last map of stride 2 ** s.

    ``stages``, ``frozen`` and ``norm`` mean what they mean for ``ResNet``, and have the same defaults.
    """

    def __init__(
        self,
        weights: str | None = None,
        stages: Sequence[int] = (2, 3, 4, 5),
        frozen: int | None = None,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        network = torchvision.models.mobilenet_v2(norm_layer=known_norm(norm, weights))
        load_weights(network, "mobilenet_v2", weights)
        self.stages = known_stages(stages, range(1, 6))
        self.features = network.features[: LAST_BLOCKS[self.stages[-1]] + 1]
        widths = {1: 16, 2: 24, 3: 32, 4: 96, 5: 1280}
        self.channels = [widths[stage] for stage in self.stages]
        self.strides = [2**stage for stage in self.stages]
        frozen = known_frozen(frozen, weights, self.stages[-1])
        self.freeze(list(self.features[: LAST_BLOCKS[frozen] + 1]) if frozen else [])

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
        features = []
        x = self.normalize(images, sizes)
        for index, block in enumerate(self.features):
            x = block(x)
            if index in (LAST_BLOCKS[stage] for stage in self.stages):
                features.append(x)
        return features
