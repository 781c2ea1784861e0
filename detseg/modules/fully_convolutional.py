"""Conversion of a classifier into convolutions (Long et al. 2015, arXiv:1411.4038, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from detseg.modules.backbones import Backbone, ConvNet


def to_fully_convolutional(
    classifier: nn.Module, channels: int, window: int, padding: Literal["valid", "same"] = "valid"
) -> nn.Sequential:
    """Convert the layers from a map to logits (B, K) into layers to a map of logits, with the same weights.

    ``channels`` is the number of the map's channels, ``window`` its side in cells for images of the classifier's
    training size. A global pooling becomes a pooling over the window around each cell, a fully connected layer a
    convolution with a kernel as large as its input map. "same" ``padding`` keeps the size of its map.

    Raises ValueError for a pooling to a size other than 1 or the window.
    """
    layers: list[nn.Module] = []
    for layer in _leaves(classifier):
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            size = _size(layer)
            if size not in (1, window):
                raise ValueError(f"the classifier takes maps of {size} x {size} cells, not of {window} x {window}")
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
    """Convert the hidden layers of a backbone's classifier, between last map and logits, into convolutions.

    These are fc6 and fc7 of VGG and AlexNet, at most dropout in newer networks, and nothing if the backbone ends before
    its last stage. They have the backbone's weights, keep the size of the map, and omit poolings.
    """
    if not isinstance(backbone, ConvNet) or backbone.stages[-1] != max(backbone.return_layers):
        return nn.Sequential()
    with torch.device("meta"):  # to look at the layers without their memory
        hidden = _hidden(
            nn.Sequential(*backbone.head(backbone.build(num_classes=1000)).values()), backbone.channels[-1]
        )
    if not any(True for _ in hidden.parameters()):
        return hidden
    return _hidden(backbone.classifier(num_classes=1000)[0], backbone.channels[-1])


def _hidden(classifier: nn.Module, channels: int) -> nn.Sequential:
    """Convert all layers before the last convolution, without poolings."""
    pooled = [_size(layer) for layer in _leaves(classifier) if isinstance(layer, nn.AdaptiveAvgPool2d)]
    layers = list(to_fully_convolutional(classifier, channels, max(pooled, default=1), padding="same"))
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
    """Return the side of a pooling's output in cells."""
    size: Any = pooling.output_size
    return size if isinstance(size, int) else size[0]


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.Sequential):
        for child in module:
            yield from _leaves(child)
    else:
        yield module
