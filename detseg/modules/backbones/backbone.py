"""What every backbone is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor, nn

from detseg.configurable import Configurable

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module, Configurable):
    """Turns images into feature maps, fine to coarse.

    ``channels`` and ``strides`` say what the maps are: the i-th is (B, channels[i], H / strides[i], W / strides[i]).
    The mean and the deviation that images are normalised with belong to the backbone, because its weights were trained
    with them; images arrive as uint8.
    """

    channels: list[int]
    strides: list[int]
    num_rpn_only_levels = 0  # of the coarsest maps: for anchors only, no region's features come from them
    image_size = 224  # pixels on each side of the images that its classifier was published for

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self._frozen: list[nn.Module] = []
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        """The arguments of every network of this family that was published under a name of its own."""
        return [{"name": name} for name in get_args(get_type_hints(cls.__init__).get("name"))] or [{}]

    def normalize(self, images: Tensor, sizes: Tensor | None) -> Tensor:
        """Normalise images (B, 3, H, W), uint8, and blank what lies outside ``sizes`` (B, 2) (None: nothing does).

        Padding must be zero after the normalisation, or its edge would look like an edge of the picture.
        """
        normal = (images - self.mean) / self.std
        if sizes is None:
            return normal
        height, width = (torch.arange(length, device=images.device) for length in images.shape[-2:])
        inside = (height[:, None] < sizes[:, 0, None, None]) & (width < sizes[:, 1, None, None])
        return normal * inside[:, None]

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
        """Images (B, 3, H, W), uint8, of ``sizes`` (B, 2) inside their padding, to one map a stride."""
        raise NotImplementedError

    def classifier_features(self, images: Tensor) -> Tensor:
        """Compute the input of ``classifier`` from images (B, 3, H, W), with the published network's arithmetic."""
        return self(images)[-1]  # type: ignore[no-any-return]

    def classifier(self, num_classes: int) -> tuple[nn.Module, dict[str, nn.Module]]:
        """What makes logits (B, K) of the coarsest map, and by name what does so of others to help in training."""
        pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(*pooled, nn.Linear(self.channels[-1], num_classes)), {}

    def freeze(self, modules: Sequence[nn.Module]) -> None:
        """Keep ``modules`` as they are: no gradient, and batch norm in evaluation mode whatever ``train`` says."""
        self._frozen = list(modules)
        for module in modules:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self
