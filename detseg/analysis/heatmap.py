"""Class heat maps: a classifier's probabilities in every window of a larger image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from detseg.draw import ImageArray
from detseg.models.classifier import Classifier
from detseg.models.fcn import ConvolutionalClassifier


@torch.inference_mode()
def window_probabilities(
    classifier: Classifier, image: ImageArray, size: int, device: torch.device
) -> NDArray[np.float32]:
    """Compute the probabilities (K, h, w) of every window of ``size`` pixels of an image (H, W, 3)."""
    model = ConvolutionalClassifier(classifier.eval(), size).to(device)
    logits = model(torch.from_numpy(image).permute(2, 0, 1)[None].to(device))
    return np.asarray(logits.softmax(dim=1)[0].float().cpu().numpy(), dtype=np.float32)


def top_classes(probabilities: NDArray[np.float32], count: int) -> list[int]:
    """Return the ``count`` classes with the highest probability in any window of (K, h, w), best first."""
    return list(map(int, np.argsort(-probabilities.max(axis=(1, 2)), kind="stable")[:count]))


def interpolate_windows(
    values: NDArray[np.float32], image_size: tuple[int, int], window: int, stride: int
) -> NDArray[np.float32]:
    """Interpolate values (h, w) of windows to the pixels (H, W) of their image of ``image_size``.

    The first window begins at the first pixel, the next ones ``stride`` pixels apart. Each value belongs to the centre
    of its window (see ``ConvolutionalClassifier`` for the receptive field), and stays constant beyond the outermost
    centres.
    """
    weights = []
    for length, count in zip(image_size, values.shape, strict=True):
        centres = window / 2 + stride * np.arange(count)
        weights.append(np.stack([np.interp(np.arange(length) + 0.5, centres, one) for one in np.eye(count)]))
    return np.asarray(weights[0].T @ values @ weights[1], dtype=np.float32)


@torch.inference_mode()
def class_evidence(classifier: Classifier, image: ImageArray, device: torch.device) -> NDArray[np.float32]:
    """Compute the logits (K, h, w) of every cell of the last map; their mean is the classifier's logits.

    In a BagNet a cell sees nothing but its patch of 9, 17 or 33 pixels (Brendel and Bethge 2019, section 2), and this
    is the evidence of the patch. In other networks it is the class activation map (Zhou et al. 2016).

    Raises ValueError unless the head is average pooling and one linear layer.
    """
    layers = [layer for layer in classifier.head.children() if not isinstance(layer, (nn.Flatten, nn.Dropout))]
    if not (len(layers) == 2 and isinstance(layers[0], nn.AdaptiveAvgPool2d) and isinstance(layers[1], nn.Linear)):
        raise ValueError(f"{type(classifier.backbone).__name__}: its classifier is more than an average and one layer")
    classifier = classifier.eval().to(device)
    features = classifier.backbone.classifier_features(torch.from_numpy(image).permute(2, 0, 1)[None].to(device))
    logits = layers[1](features.movedim(1, -1)).movedim(-1, 1)
    return np.asarray(logits[0].float().cpu().numpy(), dtype=np.float32)
