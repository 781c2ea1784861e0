from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.data import COCO, CopyPaste, ImageSample, LargeScaleJitter, Mosaic, RandomHorizontalFlip, Resize
from detseg.data.transforms.geometry import crop, full_mask, mask_bounds
from detseg.data.transforms.mixing import GREY
from detseg.data.transforms.transform import apply_transforms, preprocess
from detseg.errors import ConfigError
from detseg.ops.masks import box_masks
from tests.data import made


def picture(height: int, width: int, first: int, seed: int, masks: bool = True) -> ImageSample:
    """Ellipses, each of a colour of its own, which is also its label; where they overlap, the later one is seen."""
    generator = np.random.default_rng(seed)
    image = np.full((height, width, 3), 200 + first, dtype=np.uint8)
    y, x = np.mgrid[:height, :width] + 0.5
    for colour in range(first, first + 4):
        middle, half = generator.uniform(0, (height, width)), generator.uniform(3, 20, 2)
        image[((y - middle[0]) / half[0]) ** 2 + ((x - middle[1]) / half[1]) ** 2 <= 1] = colour
    maps = {colour: image[:, :, 0] == colour for colour in range(first, first + 4)}
    maps = {colour: map for colour, map in maps.items() if map.any()}
    boxes = np.array([mask_bounds(map) for map in maps.values()], dtype=np.float32).reshape(-1, 4)
    drawn = box_masks(maps.values(), torch.from_numpy(boxes)).numpy() if masks else None
    return ImageSample(image, boxes, np.array([*maps], dtype=np.int64), drawn)


def assert_exact(found: ImageSample, colours: int = 40) -> None:
    """Each object that is seen has its label, its box, and, but for a pixel or two, its mask; no other has."""
    height, width = found.image.shape[:2]
    assert (found.boxes.dtype, found.labels.dtype, found.image.dtype) == (np.float32, np.int64, np.uint8)
    assert found.masks is not None
    assert len(found.masks) == len(found.boxes) == len(found.labels)
    seen = {colour: found.image[:, :, 0] == colour for colour in range(1, colours)}
    assert sorted(found.labels.tolist()) == [colour for colour, map in seen.items() if map.any()]
    for row, label in enumerate(found.labels.tolist()):
        assert found.boxes[row].tolist() == [*mask_bounds(seen[label])]
        wrong = full_mask(found, row, height, width) ^ seen[label]
        assert wrong.sum() <= max(1, 0.02 * seen[label].sum())


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 30), st.integers(0, 30), st.integers(31, 90), st.integers(31, 90))
def test_a_window_shows_its_part(seed: int, left: int, top: int, right: int, bottom: int) -> None:
    original = picture(60, 80, 1, seed)
    proposals = np.array([[10, 10, 40, 50]], np.float32)
    found = crop(original._replace(proposals=proposals), left, top, right, bottom)
    assert np.array_equal(found.image, original.image[top:bottom, left:right])
    assert found.proposals is not None
    assert found.proposals.tolist() == [[10 - left, 10 - top, 40 - left, 50 - top]]
    assert_exact(found)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.lists(st.tuples(st.integers(20, 90), st.integers(20, 90)), min_size=4, max_size=4))
def test_a_mosaic_shows_four_pictures(seed: int, sizes: list[tuple[int, int]]) -> None:
    four = [picture(*size, 1 + 5 * number, seed + number) for number, size in enumerate(sizes)]
    found = Mosaic().mix(four[0]._replace(frame=(64, 72)), four[1:], np.random.default_rng(seed))
    assert found.image.shape == (64, 72, 3)
    assert_exact(found)
    y, x = (int(v) for v in np.argwhere(found.image[:, :, 0] != GREY)[0])
    assert found.image[y, x, 0] in np.unique(np.concatenate([one.image[:, :, 0].ravel() for one in four]))
    for number, own in enumerate(four):  # each picture lies on its side of the point
        there = np.isin(found.image[:, :, 0], np.unique(own.image))
        rows, columns = (np.flatnonzero(there.any(axis=axis)) for axis in (1, 0))
        assert len(rows)
        assert (rows[0] >= 16) if number >= 2 else (rows[-1] < 48)
        assert (columns[0] >= 18) if number % 2 else (columns[-1] < 54)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(20, 90), st.integers(20, 90))
def test_pasted_objects_hide_what_is_below(seed: int, height: int, width: int) -> None:
    below, above = picture(60, 70, 1, seed), picture(height, width, 21, seed + 1)
    frame = (max(60, height), max(70, width))
    found = CopyPaste().mix(below._replace(frame=frame), [above], np.random.default_rng(seed))
    assert_exact(found)
    if set(found.labels) & set(above.labels):
        assert found.image.shape[:2] == (max(60, height), max(70, width))
    pasted = np.isin(found.image[:, :, 0], above.labels)
    kept = found.image[:60, :70][~pasted[:60, :70]]
    assert np.array_equal(kept, below.image[~pasted[:60, :70]])


def test_about_half_of_the_objects_are_pasted() -> None:
    below, above = picture(60, 70, 1, 0), picture(60, 70, 21, 5)
    found = [CopyPaste().mix(below, [above], np.random.default_rng(seed)) for seed in range(200)]
    share = np.mean([np.isin(above.labels, one.labels).mean() for one in found])
    assert share == pytest.approx(0.5, abs=0.06)
    assert all(np.array_equal(below.image, picture(60, 70, 1, 0).image) for _ in found)  # the originals stay


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_jitter_scales_and_cuts(seed: int) -> None:
    """A square that stays one; its side, where it is whole, is that of the factor."""
    image = np.full((60, 80, 3), 255, dtype=np.uint8)
    image[20:40, 30:50] = 7
    box = np.array([[30, 20, 50, 40]], np.float32)
    original = ImageSample(image, box, np.array([7]), np.full((1, 32, 32), 255, np.uint8))
    found = apply_transforms([LargeScaleJitter(60, 80, (0.2, 2.0))], original, seed)
    height, width = found.image.shape[:2]
    assert height <= 60
    assert width <= 80
    dark = found.image[:, :, 0] < 131
    if not dark.any():
        assert len(found.boxes) <= 1
        return
    assert found.boxes[0] == pytest.approx(np.array(mask_bounds(dark)), abs=1)
    inside = (
        found.boxes[0, 0] > 0 and found.boxes[0, 2] < width and found.boxes[0, 1] > 0 and found.boxes[0, 3] < height
    )
    if inside and height < 60:
        assert found.boxes[0, 2] - found.boxes[0, 0] == pytest.approx(height / 3, abs=1)


def test_how_large_pictures_become() -> None:
    transforms, original = [LargeScaleJitter(60, 80, (0.1, 2.0))], picture(60, 80, 1, 0)
    shapes = np.array([apply_transforms(transforms, original, seed).image.shape[:2] for seed in range(1000)])
    assert (shapes == [60, 80]).all(axis=1).mean() == pytest.approx(1 / 1.9, abs=0.05)
    assert shapes.min(axis=0) == pytest.approx([7, 9], abs=2)


def test_without_masks_boxes_are_cut() -> None:
    one = ImageSample(
        np.zeros((50, 50, 3), np.uint8), np.array([[5, 5, 25, 25], [0, 0, 9, 9]], np.float32), np.arange(2)
    )
    found = crop(one, 10, 12, 50, 50)
    assert found.boxes.tolist() == [[0, 0, 15, 13]]
    assert found.labels.tolist() == [0]
    assert found.masks is None


def test_a_seed_draws_the_same_again_and_evaluation_mixes_nothing() -> None:
    transforms = [LargeScaleJitter([50, 60], 80, (0.5, 1.5)), Mosaic(), RandomHorizontalFlip(), CopyPaste()]
    drawn: list[int] = []

    def another(generator: np.random.Generator) -> ImageSample:
        drawn.append(int(generator.integers(9)))
        return picture(60, 80, 21, drawn[-1])

    for seed in range(20):
        state = np.random.get_state()[1].sum()
        first, again = (apply_transforms(transforms, picture(60, 80, 1, 3), seed, another) for _ in range(2))
        assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True) if one is not None)
        assert np.random.get_state()[1].sum() == state
    assert len(set(drawn)) > 5
    mixed, plain = (
        preprocess(picture(60, 80, 1, 3), step.preprocessing) for step in (transforms[0], Resize([50, 60], 80))
    )
    assert np.array_equal(mixed.image, plain.image)


def test_a_data_set_mixes_its_own_pictures(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "height": 48, "width": 64} for i in range(6)]
    square = [[4, 6, 24, 6, 24, 36, 4, 36]]
    objects = [
        {"id": i, "image_id": i, "category_id": i, "bbox": [4, 6, 20, 30], "segmentation": square} for i in range(1, 6)
    ]
    made.coco(tmp_path / "a.json", images, objects, {i: f"class {i}" for i in range(1, 6)})
    for entry in images:
        made.image(tmp_path / str(entry["file_name"]), seed=int(str(entry["id"])))
    transforms = [LargeScaleJitter(48, 64, (0.8, 1.5)), Mosaic(), RandomHorizontalFlip(), CopyPaste(p=1)]
    data = COCO(
        str(tmp_path),
        split={"train": "a.json", "val": "a.json"},
        transforms=transforms,
        batch_size=3,
        num_workers=0,
        masks="all",
    )
    batch = next(iter(data.train_dataloader()))
    assert batch.targets.masks is not None
    assert tuple(batch.images.shape[2:]) == (64, 64)  # the smallest bucket: no mixture is larger than pictures are
    labels = [set(data.dataset("train")[row, seed].labels.tolist()) for row in range(6) for seed in range(9)]
    assert len(set.union(*labels[:9])) >= 3  # of the first image, which has no object of its own


@pytest.mark.parametrize("scale", [(0, 1), (2, 1)])
def test_values_that_make_no_sense_are_named(scale: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="transforms: LargeScaleJitter: scale"):
        LargeScaleJitter(scale=scale)
    for cls, p in ((Mosaic, 2), (CopyPaste, -1)):
        with pytest.raises(ConfigError, match=f"transforms: {cls.__name__}: p {p}"):
            cls(p)


def test_what_cannot_be_mixed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"CopyPaste .*set `masks='all'`"):
        COCO(str(tmp_path), transforms=[Resize(), CopyPaste()])
    with pytest.raises(ConfigError, match="proposals do not cover"):
        COCO(str(tmp_path), transforms=[Resize(), Mosaic()], proposals="proposals")
    COCO(str(tmp_path), transforms=[LargeScaleJitter()], proposals="proposals")
    with pytest.raises(ConfigError, match="Mosaic mixes objects of detection data sets"):
        apply_transforms([Mosaic(p=0)], picture(60, 80, 1, 0), 0)
