"""How much of the classes each layer of a network knows: linear classifiers on frozen features.

The protocol of Zhang et al. 2016 (Colorful Image Colorization, arXiv:1603.08511, section 3.2): the maps of every depth
are brought to about 9,000 numbers by average pooling, so that no depth wins by the mere size of its features, and a
softmax classifier is trained on them while the network stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detseg.configurable import from_config, to_config
from detseg.modules.backbones import ConvNet

NUMBERS = 9000  # of one picture at one depth
DEPTHS = 8
HELD_OUT = 0.25  # of the training part, to choose the regularisation with
STRENGTHS = 10.0 ** np.arange(-5, 1)  # C of scikit-learn: the weight of the losses against that of the squared norm

Features = NDArray[np.float32]  # (N, D)


def spread_depths(backbone: ConvNet) -> list[str]:
    """Blocks at about eight depths: the last of every stage, and the middle of the longest stretches between them.

    A convolution or a batch norm alone is not among them: what follows it belongs to the same layer.
    """
    parts = (nn.Conv2d, nn.BatchNorm2d, FrozenBatchNorm2d)
    layers = [name for name in backbone.block_names if not isinstance(backbone.get_submodule(name), parts)]
    return_layers = [tap for stage, tap in backbone.return_layers.items() if stage <= backbone.stages[-1]]
    chosen = sorted({max(place for place, name in enumerate(layers) if _is_in(name, tap)) for tap in return_layers})
    while len(chosen) < DEPTHS:
        gap, start = max((after - before, before) for before, after in pairwise([-1, *chosen]))
        if gap < 2:
            break
        chosen = sorted([*chosen, start + (gap + 1) // 2])
    return [layers[place] for place in chosen]


def at_random(backbone: ConvNet, seed: int) -> ConvNet:
    """The same network without its weights; nothing else draws random numbers by it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: ConvNet = from_config(to_config(backbone), weights=None)
    return model


def pooled(feature: Tensor) -> Tensor:
    """Average a map (B, C, H, W) over so large cells that about 9,000 numbers are left: (B, D).

    A map with less cells than that stays as it is.
    """
    side = max(1, round((NUMBERS / feature.shape[1]) ** 0.5))
    height, width = (min(side, length) for length in feature.shape[2:])
    return F.adaptive_avg_pool2d(feature, (height, width)).flatten(1)


@torch.inference_mode()
def features(backbone: ConvNet, batches: Iterable[Tensor], depths: Sequence[str]) -> dict[str, Features]:
    """The pooled features of all images after each of the blocks ``depths``, from images (B, 3, H, W), uint8.

    No more than one batch of maps is held at a time; what is kept is 36 kB for each image and depth.
    """
    names = [name for name in backbone.block_names if name in depths]
    device = next(backbone.parameters()).device
    backbone.eval()
    found: dict[str, list[Features]] = {name: [] for name in names}
    for images in batches:
        for name, feature in zip(
            names, backbone.forward_intermediates(images.to(device), names, stride_aligned=False), strict=True
        ):
            found[name].append(pooled(feature).float().cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def fit_linear(train: Features, labels: NDArray[np.int64], held_out: NDArray[np.bool_]) -> LogisticRegression:
    """The softmax classifier of some features, trained to the end on all of them.

    How much it is regularised is chosen by the loss on the ``held_out`` of them, of one that was trained on the others.
    """
    losses = []
    for strength in STRENGTHS:
        probabilities = _fit(train[~held_out], labels[~held_out], strength).predict_proba(train[held_out])
        right = probabilities[np.arange(len(probabilities)), labels[held_out]]
        losses.append(-np.log(right.clip(1e-12)).mean())
    return _fit(train, labels, STRENGTHS[int(np.argmin(losses))])


def accuracy(
    train: Features,
    train_labels: NDArray[np.int64],
    val: Features,
    val_labels: NDArray[np.int64],
    held_out: NDArray[np.bool_],
) -> float:
    """The part of the features ``val`` that a linear classifier of the standardised features ``train`` gets right.

    Labels are 0..K-1, and each is there outside of ``held_out``, which chooses the regularisation.
    """
    mean, deviation = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    deviation[deviation == 0] = 1
    standard, other = (((part - mean) / deviation).astype(np.float32) for part in (train, val))
    if len(standard) < standard.shape[1]:
        # The best weights are a sum of samples, so that nothing is lost in the space these span, which is smaller.
        basis, _ = np.linalg.qr(standard.T)
        standard, other = standard @ basis, other @ basis
    classifier = fit_linear(standard, train_labels, held_out)
    return float((classifier.predict(other) == val_labels).mean())


def _is_in(block: str, group: str) -> bool:
    return block == group or block.startswith(f"{group}.")


def _fit(train: Features, labels: NDArray[np.int64], strength: float) -> LogisticRegression:
    return LogisticRegression(C=float(strength), max_iter=5000, tol=1e-4).fit(train, labels)
