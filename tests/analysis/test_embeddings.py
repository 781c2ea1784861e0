"""Embeddings: neighbours and labels against loops and scikit-learn, dimensions against manifolds that are made."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detseg.analysis.embeddings import (
    changed,
    class_overlap,
    embed,
    intrinsic_dimension,
    knn_accuracy,
    label_confidence,
    last_layer,
    nearest_neighbours,
    neighbour_vote,
    project,
    similar,
)
from detseg.errors import ConfigError
from detseg.modules import FPN
from detseg.modules.backbones import MobileNetV2
from tests.small_net import SmallNet, identity

CLUSTERS, EACH = 4, 25


def clusters(seed: int = 0, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Features (100, 20) of four groups around distant centres, and their numbers."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLUSTERS), EACH)
    centres = 20 * np.eye(20)[:CLUSTERS]
    return (centres[labels] + spread * generator.normal(size=(len(labels), 20))).astype(np.float32), labels


def test_an_image_is_embedded_as_the_mean_over_its_pixels() -> None:
    images = torch.randint(0, 256, (5, 3, 48, 96), dtype=torch.uint8)
    made = embed(SmallNet(identity().tolist()), images.split(2), "relu")
    np.testing.assert_allclose(made.features, images.float().mean(dim=(2, 3)), rtol=1e-5)
    expected = images[:, :, :, ::2].float() + images[:, :, :, 1::2]
    np.testing.assert_allclose(made.thumbnails, expected.permute(0, 2, 3, 1) / 2, atol=0.51)


def test_any_module_of_a_pyramid_is_a_layer() -> None:
    """The map before a ReLU that works in place, and one of the pyramid, against calls of the modules."""
    torch.manual_seed(0)
    pyramid = FPN(MobileNetV2(stages=[2, 3]), channels=8).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert last_layer(pyramid) == f"backbone.{pyramid.backbone.block_names[-1]}"
    with torch.no_grad():
        finest = pyramid(images)[0].mean(dim=(2, 3))
        first = pyramid.backbone.get_submodule("features.0.1")
        inputs = pyramid.backbone.get_submodule("features.0.0")(pyramid.normalize(images, None))
        normed = first(inputs).mean(dim=(2, 3))
    np.testing.assert_allclose(embed(pyramid, [images], "output_convs.0").features, finest, atol=1e-5)
    np.testing.assert_allclose(embed(pyramid, [images], "backbone.features.0.1").features, normed, atol=1e-5)
    with pytest.raises(ConfigError, match="layer backbone: gives neither a map"):
        embed(pyramid, [images], "backbone")
    pyramid.unused = nn.Identity()
    with pytest.raises(ConfigError, match="layer unused: an image passes it 0 times"):
        embed(pyramid, [images], "unused")


def test_neighbours_are_those_of_a_loop() -> None:
    features, _ = clusters()
    ours = nearest_neighbours(features, 3)
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    for row in range(len(features)):
        distances = [1 - a @ centred[row] / np.linalg.norm(a) / np.linalg.norm(centred[row]) for a in centred]
        distances[row] = 9
        nearest = np.argsort(distances)[:3]
        assert ours.indices[row].tolist() == nearest.tolist()
        np.testing.assert_allclose(ours.distances[row], np.array(distances)[nearest], atol=1e-5)
    rows, distances = similar(features, features[30], 2)
    assert rows[0] == 30
    assert distances == pytest.approx([0, distances[1]], abs=1e-5)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_a_map_keeps_groups_apart(method: str) -> None:
    features, labels = clusters()
    points = project(features, method, seed=0)
    assert points.shape == (100, 2)
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1) + np.diag([np.inf] * 100)
    assert (labels[gaps.argmin(axis=1)] == labels).mean() > 0.95


def test_swapped_labels_have_the_least_confidence() -> None:
    features, labels = clusters(spread=3)
    given = labels.copy()
    swapped = [3, 30, 55, 80]
    given[swapped] = (labels[swapped] + 1) % CLUSTERS
    given[[10, 11]] = -1
    confidence = label_confidence(features, given, seed=0)
    assert sorted(np.argsort(confidence)[:4].tolist()) == swapped
    assert np.isnan(confidence[[10, 11]]).all()
    assert ((confidence[[0, 40, 99]] > 0.5) & (confidence[[0, 40, 99]] <= 1)).all()
    rare = np.where(np.arange(100) < 3, 9, given)  # fewer than the folds
    assert np.isnan(label_confidence(features, rare, seed=0)[:3]).all()


def test_overlap_counts_the_neighbours_of_each_class() -> None:
    features, labels = clusters(spread=8)
    labels[::9] = -1
    near = nearest_neighbours(features, 5)
    overlap = class_overlap(near, labels, 5)
    for a in range(5):
        others = [labels[other] for row in np.flatnonzero(labels == a) for other in near.indices[row]]
        counted = [others.count(b) for b in range(5)]
        assert overlap[a].tolist() == pytest.approx([count / max(sum(counted), 1) for count in counted])
    assert overlap[0, 1] > 0
    votes = neighbour_vote(near, labels, 5)
    for row in range(len(labels)):
        others = [label for label in labels[near.indices[row]] if label >= 0]
        assert votes[row] == (np.bincount(others).argmax() if others else -1)
    assert neighbour_vote(near, np.full(100, -1), 0).tolist() == [-1] * 100


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_the_dimension_is_that_of_the_manifold(dimension: int) -> None:
    """Uniform samples on a torus of this dimension, in a space of 40: no edge, which would lower the estimate."""
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, (2000, dimension))
    torus = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(40, 40)))[0][: 2 * dimension]
    features = (torus @ rotation).astype(np.float32)
    assert intrinsic_dimension(features) == pytest.approx(dimension, rel=0.08)
    doubled = np.concatenate([features, features[:500]])  # copies have no distance
    assert intrinsic_dimension(doubled) == pytest.approx(intrinsic_dimension(features), rel=1e-6)
    assert np.isnan(intrinsic_dimension(features[[0, 0, 1]]))


def test_accuracy_of_the_nearest_neighbours() -> None:
    """Against a loop over the cosines."""
    train, labels = clusters(0, spread=8)
    val, val_labels = clusters(1, spread=8)
    unit, other = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (train, val))
    votes = [np.bincount(labels[np.argsort(-(unit @ one))[:5]], minlength=4).argmax() for one in other]
    expected = (np.array(votes) == val_labels).mean()
    assert 0.4 < expected < 1
    assert knn_accuracy(train, labels, val, val_labels, 5) == pytest.approx(expected, abs=0.02)  # ties


def test_changes_begin_with_the_image_and_end_with_pillow() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    changes = changed(image, 3)
    for steps in changes.values():
        assert len(steps) == 3
        np.testing.assert_array_equal(steps[0], image)
    middle = (slice(20, 44), slice(20, 44))
    turned = np.roll(np.asarray(Image.fromarray(image).rotate(90)), 1, axis=0)  # around a pixel, not a corner
    np.testing.assert_allclose(changes["rotated"][-1][middle].astype(int), turned[middle], atol=1)
    np.testing.assert_allclose(changes["brightened"][-1], 204 + 0.2 * image, atol=0.51)
