"""Near-duplicates: planted copies, against every pair by numpy's correlation."""

from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from detseg.data.near_duplicates import Pair, near_duplicates


def thumbnail(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((48, 48), Image.Resampling.BOX))


def copies(image: Image.Image) -> list[Image.Image]:
    """The image resized, mirrored and compressed once more."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=30)
    small = image.resize((image.width // 2, image.height // 2))
    return [small, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), Image.open(stream)]


def test_pairs_are_those_of_a_loop() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (12, 48, 48, 3)).astype(np.uint8)
    images[7], images[9] = images[2], images[5][:, ::-1]
    images[11] = (images[2] * 0.5 + 60).astype(np.uint8)  # of another brightness
    images[8] = images[10] = 99  # flat: nothing to compare
    expected = []
    for a, b in combinations(range(12), 2):
        blocks = [images[row].mean(axis=2).reshape(24, 2, 24, 2).mean(axis=(1, 3)) for row in (a, b)]
        if blocks[0].std() and blocks[1].std():
            flips = [np.corrcoef(blocks[0].ravel(), block.ravel())[0, 1] for block in (blocks[1], blocks[1][:, ::-1])]
            if max(flips) >= 0.95:
                expected.append((a, b, max(flips)))
    found = near_duplicates(images)
    assert {(pair.first, pair.second) for pair in found} == {(2, 7), (5, 9), (2, 11)}
    by_pair = {(a, b): value for a, b, value in expected}
    for pair in found:
        np.testing.assert_allclose(pair.similarity, by_pair[pair.first, pair.second], atol=1e-5)
    assert isinstance(found[0], Pair)


def test_planted_copies_of_blood_cells(shared_data: Path) -> None:
    """Photographs that resemble each other, two of which are nearly the same already."""
    files = sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))[:120]
    images = [Image.open(file).convert("RGB") for file in files]
    planted = {len(files) + 3 * row + kind: source for row, source in enumerate(range(0, 120, 4)) for kind in range(3)}
    made = [copy for source in range(0, 120, 4) for copy in copies(images[source])]
    repeated = {pair.second: pair.first for pair in near_duplicates(np.stack(list(map(thumbnail, images))))}
    assert len(repeated) <= 1
    found = near_duplicates(np.stack([thumbnail(image) for image in [*images, *made]]))
    right = {pair.second for pair in found if planted.get(pair.second) in (pair.first, *repeated)}
    assert len(right) / len(planted) >= 0.98
    assert len(right) / len(found) >= 0.98


def test_images_of_one_gradient_are_no_copies() -> None:
    """As photographs under one sky: only their edges tell them apart."""
    generator = np.random.default_rng(0)
    sky = np.linspace(60, 200, 48)[:, None, None] + generator.normal(0, 3, (2, 48, 48, 3))
    sky[0, 5:15, 5:15], sky[1, 30:36, 20:28] = 120, 90
    first, second = sky.clip(0, 255).astype(np.uint8)
    found = near_duplicates(np.stack([first, second, first]))
    assert [(pair.first, pair.second) for pair in found] == [(0, 2)]
