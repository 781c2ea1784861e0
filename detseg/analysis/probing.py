"""Linear probing: the accuracy of linear classifiers on the frozen features of each depth of a network.

Follows Zhang et al. 2016 (Colorful Image Colorization, arXiv:1603.08511, section 3.2): average pooling brings the maps
of every depth to about 9,000 features, so that no depth wins by dimensionality alone, and a softmax classifier is
trained on them while the network stays frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detseg.configurable import from_config, to_config
from detseg.modules.backbones import ConvNet

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

FEATURES = 9000  # of one image at one depth
DEPTHS = 8  # of a network, by default
HELD_OUT = 0.25  # of the training split, to choose the regularisation
STRENGTHS = 10.0 ** np.arange(-5, 1)  # scikit-learn's C, the inverse of the regularisation

Features = NDArray[np.float32]  # (N, D)


def spread_depths(backbone: ConvNet) -> list[str]:
    """Choose blocks at about eight depths: the last of every stage, and the middles of the longest gaps between them.

    Single convolutions and batch norms are excluded, because the activation after them belongs to the same layer.
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
    """Build the same network with random weights of ``seed``, without changing the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: ConvNet = from_config(to_config(backbone), weights=None)
    return model


def pooled(feature: Tensor) -> Tensor:
    """Average-pool a map (B, C, H, W) to about 9,000 features (B, D); smaller maps stay as they are."""
    side = max(1, round((FEATURES / feature.shape[1]) ** 0.5))
    height, width = (min(side, length) for length in feature.shape[2:])
    return F.adaptive_avg_pool2d(feature, (height, width)).flatten(1)


@torch.inference_mode()
def features(backbone: ConvNet, batches: Iterable[Tensor], depths: Sequence[str]) -> dict[str, Features]:
    """Compute the pooled features of images (B, 3, H, W), uint8, after each of the blocks ``depths``.

    Memory holds the maps of one batch at a time, and 36 kB of features for each image and depth.
    """
    names = [name for name in backbone.block_names if name in depths]
    device = next(backbone.parameters()).device
    backbone.eval()
    collected: dict[str, list[Features]] = {name: [] for name in names}
    for images in batches:
        for name, feature in zip(
            names, backbone.forward_intermediates(images.to(device), names, stride_aligned=False), strict=True
        ):
            collected[name].append(pooled(feature).float().cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in collected.items()}


def fit_linear(train: Features, labels: NDArray[np.int64], held_out: NDArray[np.bool_]) -> LogisticRegression:
    """Fit a softmax classifier to all samples until convergence.

    The regularisation is the one with the lowest loss on the ``held_out`` samples after training on the others.
    """
    losses = []
    for strength in STRENGTHS:
        probabilities = _fit(train[~held_out], labels[~held_out], strength).predict_proba(train[held_out])
        true_class = probabilities[np.arange(len(probabilities)), labels[held_out]]
        losses.append(-np.log(true_class.clip(1e-12)).mean())
    return _fit(train, labels, STRENGTHS[int(np.argmin(losses))])


def accuracy(
    train: Features,
    train_labels: NDArray[np.int64],
    val: Features,
    val_labels: NDArray[np.int64],
    held_out: NDArray[np.bool_],
) -> float:
    """Measure the accuracy on ``val`` of a linear classifier trained on the standardised features ``train``.

    Labels are 0..K-1, and each must occur outside ``held_out``, the samples that choose the regularisation.
    """
    mean, deviation = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    deviation[deviation == 0] = 1
    standard, other = (((part - mean) / deviation).astype(np.float32) for part in (train, val))
    if len(standard) < standard.shape[1]:
        # The optimal weights are a linear combination of samples, so the smaller space they span is sufficient.
        basis, _ = np.linalg.qr(standard.T)
        standard, other = standard @ basis, other @ basis
    classifier = fit_linear(standard, train_labels, held_out)
    return float((classifier.predict(other) == val_labels).mean())


def _is_in(block: str, group: str) -> bool:
    return block == group or block.startswith(f"{group}.")


def _fit(train: Features, labels: NDArray[np.int64], strength: float) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression  # takes seconds to import

    return LogisticRegression(C=float(strength), max_iter=5000, tol=1e-4).fit(train, labels)
