from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detseg.configurable import from_config, to_config
from detseg.data.transforms import Albumentations, ImageSample, RandomHorizontalFlip, RandomScaleCrop, Transform
from detseg.data.transforms.transform import apply_transforms
from detseg.errors import ConfigError
from detseg.structures import IGNORE_INDEX

SHADE = 40  # of a class in the image of ``blocks``


def blocks(height: int, width: int, side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image of squares, each with a class that its shade tells."""
    generator = np.random.default_rng(seed)
    classes = generator.integers(0, 6, (-(-height // side), -(-width // side)), dtype=np.uint8)
    labels = classes.repeat(side, 0).repeat(side, 1)[:height, :width].copy()
    return np.repeat(labels[..., None] * SHADE, 3, axis=2), labels


def train(
    transforms: list[Transform], image: np.ndarray, labels: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Apply transforms to an image and its semantic map."""
    sample = apply_transforms(transforms, ImageSample(image, semantic=labels), seed)
    assert sample.semantic is not None
    return sample.image, sample.semantic


def assert_together(image: np.ndarray, labels: np.ndarray, cropped: bool) -> None:
    """Image and labels agree, but for pixels at edges: mixing shades, a pixel is at most half a class off, rounded."""
    assert image.dtype == labels.dtype == np.uint8
    assert image.shape == (*labels.shape, 3)
    shown = labels != IGNORE_INDEX
    exact = np.abs(image[..., 0].astype(int) - SHADE * labels.astype(int)) <= 1
    same = np.ones_like(shown)
    padded = np.pad(labels, 1, mode="edge")
    if cropped:  # an edge pixel is mixed with one outside
        padded[[0, -1]], padded[:, [0, -1]] = IGNORE_INDEX, IGNORE_INDEX
    for y in range(3):
        for x in range(3):
            same &= padded[y : y + labels.shape[0], x : x + labels.shape[1]] == labels
    assert exact[same & shown].all()


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 120), st.integers(20, 120), st.integers(8, 90), st.integers(0, 10**9), st.booleans())
@example(height=20, width=34, crop=8, seed=416, whole=False)
def test_image_and_labels_go_together(height: int, width: int, crop: int, seed: int, whole: bool) -> None:
    transforms = [RandomScaleCrop((0.5, 2), None if whole else crop), RandomHorizontalFlip()]
    image, labels = train(transforms, *blocks(height, width, 10), seed)
    assert_together(image, labels, cropped=not whole)
    assert labels.max() < 6  # no class is made up by mixing
    if not whole:
        assert max(labels.shape) <= crop


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_sizes(scale: float, seed: int) -> None:
    original = blocks(100, 130, 10)
    assert train([RandomScaleCrop((scale, scale), None)], *original, seed)[1].shape == (
        round(100 * scale),
        round(130 * scale),
    )
    cut = train([RandomScaleCrop((scale, scale), 96)], *original, seed)[1]
    assert cut.shape == (min(96, round(100 * scale)), min(96, round(130 * scale)))


def test_doubling_repeats_every_label() -> None:
    image, labels = blocks(40, 50, 3)
    found = train([RandomScaleCrop((2, 2), None)], image, labels, 0)[1]
    assert np.array_equal(found, labels.repeat(2, 0).repeat(2, 1))


def test_without_scaling_it_is_a_part_of_the_image() -> None:
    image, labels = blocks(60, 70, 1)
    transforms = [RandomScaleCrop((1, 1), 32)]
    corners = set()
    for seed in range(40):
        part, found = train(transforms, image, labels, seed)
        windows = np.lib.stride_tricks.sliding_window_view(labels, (32, 32))
        places = np.argwhere((windows == found).all(axis=(2, 3)))
        assert len(places) == 1
        y, x = places[0]
        assert np.array_equal(part, image[y : y + 32, x : x + 32])
        corners.add((int(y), int(x)))
    assert len(corners) > 30
    assert max(y for y, _ in corners) > 20
    assert min(y for y, _ in corners) < 8


@pytest.mark.parametrize("flip", [0.0, 0.25, 1.0])
def test_how_often_an_image_is_mirrored(flip: float) -> None:
    image, labels = blocks(20, 20, 4)
    transforms = [RandomHorizontalFlip(flip)]
    found = [train(transforms, image, labels, seed) for seed in range(300)]
    mirrored = [np.array_equal(one, labels[:, ::-1]) for _, one in found]
    assert sum(mirrored) == pytest.approx(300 * flip, abs=30)
    for (other, _), mirror in zip(found, mirrored, strict=True):
        assert np.array_equal(other, image[:, ::-1] if mirror else image)


def test_what_an_augmentation_leaves_empty_is_void() -> None:
    original = blocks(60, 80, 10)
    transforms = [Albumentations({"Affine": {"translate_px": {"x": [10, 10], "y": [0, 0]}, "p": 1}})]
    image, labels = train(transforms, *original, 0)
    assert (labels[:, :10] == IGNORE_INDEX).all()
    assert np.array_equal(labels[:, 10:], original[1][:, :-10])
    assert np.array_equal(image[:, 10:], original[0][:, :-10])
    turned = train([Albumentations({"Rotate": {"limit": [30, 30], "p": 1}})], *original, 0)
    assert {*np.unique(turned[1])} == {*np.unique(original[1]), IGNORE_INDEX}


def test_colours_change_no_label_and_void_stays_void() -> None:
    image, labels = blocks(60, 80, 10)
    labels[:7] = IGNORE_INDEX
    transforms = [Albumentations({"ColorJitter": {"brightness": [2, 2], "p": 1}})]
    changed, found = train(transforms, image, labels, 0)
    assert np.array_equal(found, labels)
    assert (changed != image).any()


def test_a_seed_draws_the_same_again() -> None:
    original = blocks(60, 80, 10)
    before = [one.copy() for one in original]
    transforms = [RandomScaleCrop(size=40), RandomHorizontalFlip(), Albumentations({"GaussNoise": {"p": 1}})]
    first, again, other = (train(transforms, *original, seed) for seed in (3, 3, 4))
    for one, two in zip(first, again, strict=True):
        assert np.array_equal(one, two)
    assert first[1].shape != other[1].shape or (first[1] != other[1]).any()
    assert all(np.array_equal(one, two) for one, two in zip(before, original, strict=True))
    assert to_config(from_config(to_config(transforms))) == to_config(transforms)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": (2.0, 0.5)}, "scale"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (1.0, float("inf"))}, "scale"),
        ({"size": 0}, "size 0"),
    ],
)
def test_values_that_make_no_sense_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"transforms: .*{message}"):
        RandomScaleCrop(**values)  # type: ignore[arg-type]


def test_an_augmentation_that_fails_is_named() -> None:
    transforms = [Albumentations({"RandomCrop": {"height": 90, "width": 50, "p": 1}})]
    with pytest.raises(ConfigError, match=r"transforms: Albumentations \(RandomCrop\) fails .*40 x 40"):
        train(transforms, *blocks(40, 40, 4), 0)


@pytest.mark.parametrize(
    ("seed", "shape", "corners", "means"),
    [
        (1, (50, 50), (7, 19), (172.4, 137.9)),
        (2, (50, 50), (0, 22), (104.9, 111.9)),
        (3, (38, 50), (7, 16), (118.4, 117.9)),
    ],
)
def test_a_seed_draws_what_it_drew_in_0_1_0(seed, shape, corners, means) -> None:
    """The values were recorded with ``SegmentationTransforms`` of version 0.1.0."""
    y, x = np.mgrid[:60, :80]
    image = np.stack([3 * x, 4 * y, x + y], axis=2).astype(np.uint8)
    labels = (x // 10 + 8 * (y // 20)).astype(np.uint8)
    image, labels = train([RandomScaleCrop(size=50), RandomHorizontalFlip()], image, labels, seed)
    assert labels.shape == shape
    assert (labels[0, 0], labels[-1, -1]) == corners
    assert image.mean(axis=(0, 1))[:2] == pytest.approx(np.array(means), abs=0.5)
