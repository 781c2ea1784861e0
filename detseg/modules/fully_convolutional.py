"""The layers of a classifier as convolutions (Long et al. 2015, arXiv:1411.4038, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from detseg.modules.backbones import Backbone, ConvNet


def convolutional(
    classifier: nn.Module, channels: int, window: int, padding: Literal["valid", "same"] = "valid"
) -> nn.Sequential:
    """What makes logits (B, K) of a map, as layers that make a map of logits, with the same weights.

    ``channels`` are those of the map, ``window`` the cells that it has on each side for an image of the size that the
    classifier was trained with. A pooling of the whole map becomes one over the window around each place; a fully
    connected layer, a convolution with a kernel as large as the map that it took in. With "same" ``padding`` its map
    keeps its size.

    Raises ValueError for a pooling to another size than 1 or the window.
    """
    layers: list[nn.Module] = []
    for layer in _leaves(classifier):
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            size = _size(layer)
            if size not in (1, window):
                raise ValueError(f"the classifier wants maps of {size} x {size} cells, not of {window} x {window}")
            if size == 1:
                layers.append(nn.AvgPool2d(window, stride=1))
        elif isinstance(layer, nn.Linear):
            layers.append(_convolution(layer, channels, padding))
            channels = layer.out_features
        elif not isinstance(layer, nn.Flatten):
            layers.append(layer)
            channels = layer.out_channels if isinstance(layer, nn.Conv2d) else channels
    return nn.Sequential(*layers)


def hidden_layers(backbone: Backbone) -> nn.Sequential:
    """What a backbone's classifier has between the last map and the classes, without its pooling, as convolutions.

    fc6 and fc7 of VGG and AlexNet; in the newer networks no more than dropout, and nothing where the backbone has been
    cut short. With the backbone's weights; the map keeps its size.
    """
    if not isinstance(backbone, ConvNet) or backbone.stages[-1] != max(backbone.return_layers):
        return nn.Sequential()
    with torch.device("meta"):  # what the layers are costs nothing
        hidden = _hidden(
            nn.Sequential(*backbone.head(backbone.build(num_classes=1000)).values()), backbone.channels[-1]
        )
    if not any(True for _ in hidden.parameters()):
        return hidden
    return _hidden(backbone.classifier(num_classes=1000)[0], backbone.channels[-1])


def _hidden(classifier: nn.Module, channels: int) -> nn.Sequential:
    """All before the last convolution, but the poolings."""
    pooled = [_size(layer) for layer in _leaves(classifier) if isinstance(layer, nn.AdaptiveAvgPool2d)]
    layers = list(convolutional(classifier, channels, max(pooled, default=1), padding="same"))
    last = max(place for place, layer in enumerate(layers) if isinstance(layer, nn.Conv2d))
    return nn.Sequential(*(layer for layer in layers[:last] if not isinstance(layer, nn.AvgPool2d)))


def _convolution(layer: nn.Linear, channels: int, padding: str) -> nn.Conv2d:
    kernel = math.isqrt(layer.in_features // channels)
    with torch.device("meta"):
        convolution = nn.Conv2d(channels, layer.out_features, kernel, padding=padding, bias=layer.bias is not None)
    weight: Tensor = layer.weight.detach().view(layer.out_features, channels, kernel, kernel)
    convolution.weight = nn.Parameter(weight)
    convolution.bias = layer.bias
    return convolution


def _size(pooling: nn.AdaptiveAvgPool2d) -> int:
    """The cells on each side of what a pooling gives."""
    size: Any = pooling.output_size
    return size if isinstance(size, int) else size[0]


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.Sequential):
        for child in module:
            yield from _leaves(child)
    else:
        yield module
