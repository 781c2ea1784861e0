"""Linear classifiers on frozen features, against scikit-learn's on the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from detseg.analysis.probing import STRENGTHS, accuracy, at_random, features, pooled, spread_depths
from detseg.data.modules.crops import train_val_split
from detseg.modules.backbones import MobileNetV2, ResNet
from tests.small_net import SmallNet, identity


def noisy(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 8, 8, 3) of three classes that differ a little in the brightness of one colour."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = generator.normal(128, 50, (count, 8, 8, 3))
    images[np.arange(count), :, :, labels] += 8
    return images.clip(0, 255).astype(np.uint8), labels


@pytest.mark.parametrize("count", [60, 240])  # less pictures than the 192 numbers of each, and more
def test_the_probe_of_an_identity_is_scikit_learn_on_pixels(count: int) -> None:
    (train, labels), (val, val_labels) = noisy(count, 0), noisy(300, 1)
    model = SmallNet(identity().tolist())
    found = [
        features(model, torch.from_numpy(images).permute(0, 3, 1, 2).split(7), ["relu"])["relu"]
        for images in (train, val)
    ]
    held_out = train_val_split(labels, 0.25, 0)
    ours = accuracy(found[0], labels, found[1], val_labels, held_out)

    # The same by scikit-learn alone, on pixels in the order of the file.
    scaler = StandardScaler().fit(train.reshape(count, -1).astype(np.float64))
    x, y = (scaler.transform(part.reshape(len(part), -1)) for part in (train, val))
    losses = []
    for strength in STRENGTHS:
        classifier = LogisticRegression(C=strength, max_iter=10000, tol=1e-6).fit(x[~held_out], labels[~held_out])
        losses.append(log_loss(labels[held_out], classifier.predict_proba(x[held_out])))
    best = LogisticRegression(C=STRENGTHS[np.argmin(losses)], max_iter=10000, tol=1e-6).fit(x, labels)
    theirs = best.score(y, val_labels)
    assert 0.4 < theirs < 0.98  # where it could go wrong
    assert ours == pytest.approx(theirs, abs=1 / 300)


@torch.no_grad()
def test_every_depth_has_about_9000_numbers() -> None:
    model = MobileNetV2()
    depths = spread_depths(model)
    images = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    for name, found in features(model, [images], depths).items():
        assert found.shape[1] == pytest.approx(9000, rel=0.3), name


def test_pooling_averages_and_leaves_small_maps_alone() -> None:
    feature = torch.randn(2, 250, 12, 12)  # 6 x 6 cells of 250 channels are 9000 numbers
    expected = np.stack(
        [feature[:, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean(dim=(2, 3)) for y in range(6) for x in range(6)], -1
    )
    np.testing.assert_allclose(pooled(feature), expected.reshape(2, 9000), atol=1e-6)
    assert pooled(feature[:, :, :3, :5]).equal(feature[:, :, :3, :5].flatten(1))


def test_depths_are_the_ends_of_the_stages_and_what_lies_between() -> None:
    assert spread_depths(MobileNetV2()) == [
        *("features.1", "features.3", "features.6", "features.8", "features.10"),
        *("features.13", "features.16", "features.18.2"),
    ]
    assert spread_depths(ResNet("resnet18")) == [
        *("relu", "layer1.0", "layer1.1", "layer2.1", "layer3.0", "layer3.1", "layer4.0", "layer4.1"),
    ]
    assert spread_depths(ResNet("resnet18", stages=[3]))[-1] == "layer2.1"


def test_random_weights_are_those_of_the_seed() -> None:
    model = MobileNetV2()
    state = torch.get_rng_state()
    first, again, other = (at_random(model, seed).state_dict()["features.3.conv.2.weight"] for seed in (0, 0, 1))
    assert torch.get_rng_state().equal(state)
    assert first.equal(again)
    assert not first.equal(other)


def test_a_part_of_every_class_is_held_out() -> None:
    labels = np.repeat([0, 1, 2, 3], [40, 10, 2, 1])
    held_out = train_val_split(labels, 0.3, seed=0)
    assert np.bincount(labels[held_out], minlength=4).tolist() == [12, 3, 1, 0]
    assert (held_out == train_val_split(labels, 0.3, seed=0)).all()
    assert (held_out != train_val_split(labels, 0.3, seed=1)).any()
