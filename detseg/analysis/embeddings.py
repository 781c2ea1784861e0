"""Embeddings, the vectors that a layer computes for images, and analyses of the distances between them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from detseg.draw import ImageArray
from detseg.errors import ConfigError
from detseg.modules.backbones import Backbone, ConvNet

THUMBNAIL = 48  # pixels
COMPONENTS = 50  # principal ones that enter t-SNE, UMAP and the classifier of doubtful labels
FOLDS = 5  # of the cross-validation for doubtful labels
DISCARDED = 0.1  # share of the largest ratios that the intrinsic dimension leaves out

Features = NDArray[np.float32]  # (N, D)
Method = Literal["pca", "tsne", "umap"]


class Embedding(NamedTuple):
    """Features (N, D) of images, and thumbnails (N, THUMBNAIL, THUMBNAIL, 3) uint8."""

    features: Features
    thumbnails: NDArray[np.uint8]


class Neighbours(NamedTuple):
    """The k nearest images of each, itself excluded, by the cosine distance."""

    indices: NDArray[np.int64]  # (N, k), nearest first
    distances: NDArray[np.float32]  # (N, k)


def last_layer(backbone: Backbone) -> str:
    """Return the last layer that describes an image: below a feature pyramid, that of its backbone."""
    inner = getattr(backbone, "backbone", None)
    if isinstance(inner, Backbone):
        return f"backbone.{last_layer(inner)}"
    return backbone.block_names[-1] if isinstance(backbone, ConvNet) else ""


@torch.inference_mode()
def embed(backbone: Backbone, batches: Iterable[Tensor], layer: str) -> Embedding:
    """Average the map after ``layer``, any module of the backbone, over each image (B, 3, H, W), uint8.

    An empty ``layer`` is the backbone's last map. Raises ConfigError for a layer that no image passes, or that gives no
    map.
    """
    device = next(backbone.parameters()).device
    outputs: list[Tensor] = []
    handle = None
    if layer:
        # Averaged at once: a ReLU that follows may change the map in place.
        handle = backbone.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output: outputs.append(_average(layer, output))
        )
    features, thumbnails = [], []
    backbone.eval()
    try:
        for images in batches:
            outputs.clear()
            maps = backbone(images.to(device))
            if not layer:
                outputs.append(_average("the backbone", maps[-1]))
            if len(outputs) != 1:
                raise ConfigError(f"layer {layer}: an image passes it {len(outputs)} times, and must once")
            features.append(outputs[0].float().cpu().numpy())
            small = F.adaptive_avg_pool2d(images.float(), THUMBNAIL).round().byte()
            thumbnails.append(small.permute(0, 2, 3, 1).cpu().numpy())
    finally:
        if handle:
            handle.remove()
    return Embedding(np.concatenate(features), np.concatenate(thumbnails))


def nearest_neighbours(features: Features, count: int) -> Neighbours:
    """Find the ``count`` nearest neighbours of each vector, by the angle between deviations from the mean vector."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=count).fit(_directions(features))
    distances, indices = search.kneighbors()
    return Neighbours(indices, (distances**2 / 2).astype(np.float32))  # of unit vectors: 1 - cosine


def similar(features: Features, vector: Features, count: int) -> tuple[NDArray[np.int64], Features]:
    """Return the rows of the ``count`` features nearest to ``vector`` (D,), and their cosine distances."""
    directions = _directions(np.concatenate([features, vector[None]]))
    distances = 1 - directions[:-1] @ directions[-1]
    rows = np.argsort(distances, kind="stable")[:count]
    return rows, distances[rows]


def project(features: Features, method: Method, seed: int) -> NDArray[np.float64]:
    """Map features to the plane (N, 2).

    PCA is linear: distances on the map are true, as far as two directions hold them. t-SNE (van der Maaten and Hinton
    2008) and UMAP (McInnes et al. 2018) keep neighbours together, and distances between groups mean little.

    Raises ConfigError for "umap" if umap-learn is not installed.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if method == "pca":
        return np.asarray(PCA(2, random_state=seed).fit_transform(features))
    reduced = _principal(features, seed)
    if method == "tsne":
        perplexity = min(30.0, max(1.0, (len(features) - 1) / 3))
        return np.asarray(TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced))
    try:
        from umap import UMAP
    except ImportError as error:
        raise ConfigError("method umap: needs umap-learn; pip install 'detseg[umap]', or take tsne") from error
    return np.asarray(UMAP(random_state=seed).fit_transform(reduced))


def label_confidence(features: Features, labels: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Estimate the probability (N,) of each given label by linear classifiers that have not seen the image.

    Cross-validated logistic regression, as in confident learning (Northcutt et al. 2021): the lowest values are the
    labels to look at. NaN for images without a label (-1) and for classes with fewer images than folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    confidence = np.full(len(labels), np.nan)
    counts = np.bincount(labels[labels >= 0])
    rows = np.flatnonzero(np.isin(labels, np.flatnonzero(counts >= FOLDS)))
    if len(np.unique(labels[rows])) < 2:
        return confidence
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    reduced = _principal(features[rows], seed)
    classifier = LogisticRegression(C=0.1, max_iter=1000)
    probabilities = cross_val_predict(
        classifier, reduced / reduced.std(axis=0).clip(min=1e-12), labels[rows], cv=folds, method="predict_proba"
    )
    position = np.searchsorted(np.unique(labels[rows]), labels[rows])
    confidence[rows] = probabilities[np.arange(len(rows)), position]
    return confidence


def class_overlap(neighbours: Neighbours, labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Compute the share of class b among the neighbours of images of class a, (K, K); rows of empty classes are 0.

    Images without a label (-1) do not count.
    """
    others = labels[neighbours.indices]
    shares = np.zeros((num_classes, num_classes))
    for label in range(num_classes):
        near = others[labels == label]
        counts = np.bincount(near[near >= 0], minlength=num_classes)
        shares[label] = counts / max(counts.sum(), 1)
    return shares


def neighbour_vote(neighbours: Neighbours, labels: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Return the most common label (N,) of the neighbours of each image; -1 if none of them has a label."""
    votes = np.zeros((len(labels), num_classes + 1), dtype=np.int64)
    np.add.at(votes, (np.arange(len(labels))[:, None], labels[neighbours.indices]), 1)  # -1 is the last column
    votes = votes[:, :num_classes]
    return np.where(votes.any(axis=1), votes.argmax(axis=1), -1) if num_classes else np.full(len(labels), -1)


def intrinsic_dimension(features: Features) -> float:
    """Estimate the dimension of the manifold that features (N, D) lie on, from two neighbours of each (TwoNN).

    If density is constant up to the second neighbour, the ratio mu of its distance to that of the first has the
    distribution F(mu) = 1 - mu ** -d; d is the slope of the line through the origin that fits -log(1 - F) over log mu,
    without the largest tenth of the ratios (Facco et al. 2017, Estimating the intrinsic dimension of datasets by a
    minimal neighborhood information). NaN for fewer than three different vectors.
    """
    from sklearn.neighbors import NearestNeighbors

    different = np.unique(features, axis=0)
    if len(different) < 3:
        return float("nan")
    distances, _ = NearestNeighbors(n_neighbors=2).fit(different).kneighbors()
    log_ratio = np.sort(np.log(distances[:, 1] / distances[:, 0]))
    kept = int(len(log_ratio) * (1 - DISCARDED))
    x, y = log_ratio[:kept], -np.log1p(-np.arange(1, kept + 1) / len(log_ratio))
    return float(x @ y / (x @ x))


def knn_accuracy(
    train: Features, train_labels: NDArray[np.int64], val: Features, val_labels: NDArray[np.int64], count: int
) -> float:
    """Measure the accuracy on ``val`` of the majority of the ``count`` nearest neighbours in ``train``, by cosine."""
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(min(count, len(train)), metric="cosine").fit(train, train_labels)
    return float(classifier.score(val, val_labels))


def changed(image: ImageArray, steps: int) -> dict[str, list[ImageArray]]:
    """Rotate (0 to 90 degrees), enlarge (1 to 3 times) and brighten (1 to 0.2 of the contrast to white) an image."""
    import cv2

    height, width = image.shape[:2]
    amounts = np.linspace(0, 1, steps)

    def warp(angle: float, scale: float) -> ImageArray:
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
        warped = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
        return np.asarray(warped, dtype=np.uint8)

    return {
        "rotated": [warp(90 * amount, 1) for amount in amounts],
        "enlarged": [warp(0, 1 + 2 * amount) for amount in amounts],
        "brightened": [np.asarray(255 - (255 - image) * (1 - 0.8 * a)).round().astype(np.uint8) for a in amounts],
    }


def _average(name: str, output: object) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim not in (2, 4):
        raise ConfigError(f"layer {name}: gives neither a map nor a vector of an image; name a layer inside it")
    return output.flatten(2).mean(dim=2) if output.ndim == 4 else output.clone()


def _directions(features: Features) -> Features:
    """Subtract the mean vector, common to all images, and scale to length 1."""
    deviations = features - features.mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.asarray(deviations / np.linalg.norm(deviations, axis=1, keepdims=True).clip(min=1e-12))


def _principal(features: Features, seed: int) -> NDArray[np.float64]:
    from sklearn.decomposition import PCA

    return np.asarray(PCA(min(COMPONENTS, *features.shape), random_state=seed).fit_transform(features))
