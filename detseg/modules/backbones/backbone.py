"""Base class of the backbones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor, nn

from detseg.configurable import Configurable

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module, Configurable):
    """A network from images to feature maps, fine to coarse.

    Map i is (B, channels[i], H / strides[i], W / strides[i]). The backbone normalises the images, uint8, with ``mean``
    and ``std``, because its weights were trained with these values.

    A backbone of another package subclasses it, sets ``channels`` and ``strides`` after ``super().__init__()``, and
    defines ``forward``.
    """

    channels: list[int]
    strides: list[int]
    num_rpn_only_levels = 0  # of the coarsest maps: for anchors only, no region's features come from them
    image_size = 224  # side of the images of the published classifier

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self._frozen: list[nn.Module] = []
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        """List the constructor arguments of every published network of this family."""
        return [{"name": name} for name in get_args(get_type_hints(cls.__init__).get("name"))] or [{}]

    def normalize(self, images: Tensor, image_sizes: Tensor | None) -> Tensor:
        """Normalise images (B, 3, H, W), uint8, and set pixels outside ``image_sizes`` (B, 2), if given, to zero.

        Padding must be zero after the normalisation; otherwise its edge would look like an edge in the image.
        """
        normal = (images - self.mean) / self.std
        if image_sizes is None:
            return normal
        height, width = (torch.arange(length, device=images.device) for length in images.shape[-2:])
        inside = (height[:, None] < image_sizes[:, 0, None, None]) & (width < image_sizes[:, 1, None, None])
        return normal * inside[:, None]

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> list[Tensor]:
        """Compute the maps of images (B, 3, H, W), uint8, of ``image_sizes`` (B, 2) inside their padding."""
        raise NotImplementedError

    def classifier_features(self, images: Tensor) -> Tensor:
        """Compute the input of ``classifier`` from images (B, 3, H, W), with the published network's arithmetic."""
        return self(images)[-1]  # type: ignore[no-any-return]

    def classifier(self, num_classes: int) -> tuple[nn.Module, dict[str, nn.Module]]:
        """Build the layers from the coarsest map to logits (B, K), and auxiliary classifiers for training by name."""
        pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(*pooled, nn.Linear(self.channels[-1], num_classes)), {}

    def freeze(self, modules: Sequence[nn.Module]) -> None:
        """Freeze ``modules``: no gradient, and batch norm stays in evaluation mode."""
        self._frozen = list(modules)
        for module in modules:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self
