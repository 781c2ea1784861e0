from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.data.transforms import Albumentations, ImageSample, RandomHorizontalFlip, Resize, Tiles
from detseg.data.transforms.transform import apply_transforms, preprocess, preprocessing_of
from detseg.errors import ConfigError
from detseg.resizing import fit


def picture(height: int, width: int, boxes: list[list[int]]) -> ImageSample:
    """Each box has a colour of its own, which its label says; its mask is the left and lower third, a bit lighter."""
    image = np.full((height, width, 3), 255, dtype=np.uint8)
    masks = np.zeros((len(boxes), 48, 48), dtype=np.uint8)
    masks[:, :, :16] = masks[:, 32:] = 255
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2] = 20 * number
        image[y1:y2, x1 : round(x1 + (x2 - x1) / 3)] = 20 * number + 10
        image[round(y2 - (y2 - y1) / 3) : y2, x1:x2] = 20 * number + 10
    return ImageSample(image, np.array(boxes, np.float32).reshape(-1, 4), np.arange(len(boxes), dtype=np.int64), masks)


def assert_together(found: ImageSample) -> None:
    """Box, mask and colour of each object are at the same place. Resizing mixes the colours at the edges."""
    assert found.masks is not None
    assert found.image.dtype == np.uint8
    assert found.boxes.dtype == np.float32
    assert found.masks.dtype == np.uint8
    assert len(found.masks) == len(found.boxes)
    for box, label, mask in zip(found.boxes, found.labels, found.masks, strict=True):
        shown = []
        for row, column in np.ndindex(3, 3):  # the middles of thirds of the box
            x, y = box[:2] + (box[2:] - box[:2]) * ((2 * np.array([column, row]) + 1) / 6)
            colour = found.image[int(y), int(x)].tolist()
            inside = mask[int(len(mask) * (2 * row + 1) / 6), int(len(mask) * (2 * column + 1) / 6)] > 127
            assert colour == [20 * label + 10 * inside] * 3
            shown.append(inside)
        assert sum(shown) == 5


@settings(max_examples=60, deadline=None)
@given(st.integers(60, 150), st.integers(60, 150), st.integers(0, 10**9), st.booleans())
def test_box_label_and_mask_go_together(height: int, width: int, seed: int, augmented: bool) -> None:
    boxes = [[5, 7, 25, 27], [30, 8, 55, 24], [12, 33, 28, 57]]
    transforms = [Resize([80, 100], 120, crop=0.5), RandomHorizontalFlip()]
    if augmented:
        transforms.append(Albumentations({"VerticalFlip": {"p": 0.5}, "Transpose": {"p": 0.5}}))
    found = apply_transforms(transforms, picture(height, width, boxes), seed)
    assert found.labels.tolist() == [0, 1, 2]
    assert_together(found)
    assert_together(preprocess(picture(height, width, boxes), preprocessing_of(transforms)))


def test_boxes_bound_what_is_left_of_the_masks() -> None:
    """A square turned by 45 degrees: its box is its diagonal high and wide, not the box around the turned box."""
    original = picture(100, 100, [[30, 30, 70, 70]])
    disc = (np.hypot(*(np.mgrid[:224, :224] + 0.5 - 112)) < 112).astype(np.uint8) * 255
    transforms = [Albumentations({"Rotate": {"limit": (45, 45), "p": 1.0}})]
    found = apply_transforms(transforms, original._replace(masks=disc[None]), 0)
    assert found.boxes == pytest.approx(np.array([[30, 30, 70, 70]]), abs=1.5)
    half = np.zeros((1, 224, 224), np.uint8)
    half[:, :112] = 255
    cut = [Albumentations({"Crop": {"y_min": 50, "x_max": 100, "y_max": 100}})]
    gone = apply_transforms(cut, original._replace(masks=half), 0)
    assert gone.boxes.shape == (0, 4)
    assert len(gone.labels) == 0
    assert gone.masks is not None
    assert len(gone.masks) == 0


def test_a_mirror_image_is_exact() -> None:
    original = picture(40, 40, [[3, 5, 11, 30]])
    found = apply_transforms([RandomHorizontalFlip(1)], original, 0)
    assert found.boxes.tolist() == [[40 - 11, 5, 40 - 3, 30]]
    assert np.array_equal(found.image, original.image[:, ::-1])
    assert_together(found)


@pytest.mark.parametrize("flip", [0.0, 0.25, 1.0])
def test_how_often_a_picture_is_mirrored(flip: float) -> None:
    transforms, original = [RandomHorizontalFlip(flip)], picture(40, 40, [[3, 5, 11, 30]])
    count = sum(apply_transforms(transforms, original, seed).boxes[0, 0] > 20 for seed in range(400))
    assert count == pytest.approx(400 * flip, abs=35)


def test_boxes_left_without_area_go_with_label_and_mask() -> None:
    boxes = [[0, 0, 30, 20], [50, 0, 80, 20], [0, 50, 30, 70]]
    transforms = [Albumentations({"Crop": {"x_max": 45, "y_max": 100}})]
    found = apply_transforms(transforms, picture(100, 100, boxes), 0)
    assert found.labels.tolist() == [0, 2]
    assert_together(found)
    alone = apply_transforms(transforms, picture(100, 100, boxes[1:2]), 0)
    assert alone.boxes.shape == (0, 4)
    assert alone.masks is not None
    assert len(alone.masks) == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_crop_holds_all_boxes_and_the_middle_of_an_empty_picture(seed: int) -> None:
    transforms = [Resize(64, 640, crop=1)]
    full = [[0, 0, 64, 64], [10, 10, 20, 20]]
    assert apply_transforms(transforms, picture(64, 64, full), seed).image.shape == (64, 64, 3)
    empty = picture(64, 64, [])
    empty.image[32, 32] = 0
    found = apply_transforms(transforms, empty, seed)
    assert found.boxes.shape == (0, 4)
    assert found.image.min() < 200  # its middle is there


def test_crops_and_sizes_vary() -> None:
    original = picture(100, 130, [[40, 40, 60, 60]])
    crops = {apply_transforms([Resize(100, 999, crop=1)], original, seed).image.shape for seed in range(20)}
    assert len(crops) > 5
    sizes = {apply_transforms([Resize([50, 60, 70], 999)], original, seed).image.shape[0] for seed in range(30)}
    assert sizes == {50, 60, 70}
    assert preprocess(original, Resize([50, 70, 60], 999).preprocessing).image.shape[0] == 70


def test_a_seed_draws_the_same_again() -> None:
    transforms = [Resize([50, 60], 999, crop=0.5), Albumentations({"ColorJitter": {"p": 1}, "GaussNoise": {"p": 1}})]
    original = picture(100, 130, [[40, 40, 60, 60]])
    first, again, other = (apply_transforms(transforms, original, seed) for seed in (3, 3, 4))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.boxes, again.boxes)
    assert first.image.shape != other.image.shape or (first.image != other.image).any()


def test_the_original_is_left_as_it_is() -> None:
    original = picture(40, 40, [[3, 5, 11, 30]])
    before = original.image.copy(), original.boxes.copy()
    transforms = [Resize(40, 40, crop=1), RandomHorizontalFlip(1), Albumentations({"ColorJitter": {"p": 1}})]
    apply_transforms(transforms, original, 1)
    assert np.array_equal(original.image, before[0])
    assert np.array_equal(original.boxes, before[1])


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1000), st.integers(0, 800))
def test_fit(height: int, width: int, size: int, more: int) -> None:
    new = fit(np.array([height, width]), size, size + more)
    scale = min(size / min(height, width), (size + more) / max(height, width))
    assert min(new) == size or max(new) == size + more
    assert max(new) <= size + more
    assert np.abs(new - np.maximum([height * scale, width * scale], 1)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("old", "new"),
    [((480, 640), (800, 1067)), ((427, 640), (800, 1199)), ((640, 480), (1067, 800)), ((375, 1242), (402, 1333))],
)
def test_fit_of_the_standard_recipe(old: tuple[int, int], new: tuple[int, int]) -> None:
    assert tuple(fit(np.array(old), 800, 1333)) == new
    assert fit(np.array([old, old]), 800, 1333).tolist() == [list(new)] * 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": []}, "size"),
        ({"size": 0}, "size"),
        ({"size": [300, 900], "max_size": 800}, "max_size 800"),
        ({"crop": -1}, "crop"),
    ],
)
def test_values_that_make_no_sense_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"transforms: Resize: .*{message}"):
        Resize(**values)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"transforms: RandomHorizontalFlip: p 1\.5"):
        RandomHorizontalFlip(1.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ColorJiter": {}}, "no transform ColorJiter; near to it: ColorJitter"),
        ({"Compose": {}}, "no transform Compose"),
        ({"ColorJitter": {"brightnes": 0.2}}, "ColorJitter: .*brightnes"),
        ({"GaussianBlur": {"p": 2}}, "GaussianBlur: .*p"),
    ],
)
def test_transforms_that_albumentations_does_not_have_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s)transforms: .*{message}"):
        Albumentations(values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "values"), [("Normalize", {}), ("ToFloat", {}), ("ToGray", {"num_output_channels": 1}), ("ToTensorV2", {})]
)
def test_what_is_no_image_afterwards_is_an_error(name: str, values: dict[str, object]) -> None:
    transforms = [Albumentations({"HorizontalFlip": {}, name: {**values, "p": 1}})]
    with pytest.raises(ConfigError, match=rf"\(HorizontalFlip, {name}\) must.* belongs to the backbone"):
        apply_transforms(transforms, picture(40, 40, [[3, 5, 11, 30]]), 0)


@pytest.mark.parametrize("boxes", [[], [[3, 5, 11, 30]]])
def test_an_augmentation_that_fails_is_named(boxes: list[list[int]]) -> None:
    transforms = [Albumentations({"RandomCrop": {"height": 90, "width": 50, "p": 1}})]
    with pytest.raises(ConfigError, match=r"transforms: Albumentations \(RandomCrop\) fails .*40 x 40 .*\(90, 50\)"):
        apply_transforms(transforms, picture(40, 40, boxes), 0)


GRADIENT = np.stack([3 * np.mgrid[:60, :80][1], 4 * np.mgrid[:60, :80][0], np.mgrid[:60, :80].sum(0)], 2).astype(
    np.uint8
)
TURNS = Albumentations({"VerticalFlip": {"p": 0.5}, "Transpose": {"p": 0.5}})
SIZES = Resize([40, 48, 56], 100, crop=0.9)


@pytest.mark.parametrize(
    ("transforms", "seed", "size", "box", "means"),
    [
        ([Resize(48, 100)], 1, (48, 64), [6.4, 9.6, 32, 28.8], (118.4, 118.5, 236.5)),
        ([Resize(48, 100)], 2, (48, 64), [32, 9.6, 57.6, 28.8], (118.4, 118.5, 0.0)),
        ([Resize(48, 100)], 3, (48, 64), [32, 9.6, 57.6, 28.8], (118.4, 118.5, 0.0)),
        ([SIZES], 1, (48, 64), [32, 9.6, 57.6, 28.8], (118.4, 118.5, 0.0)),
        ([SIZES], 2, (56, 95), [8.03, 9.33, 50.85, 41.33], (110.9, 102.5, 216.0)),
        ([SIZES], 3, (56, 73), [32.44, 10.18, 64.89, 34.62], (106.4, 116.0, 0.0)),
        ([Resize(48, 100), TURNS], 0, (64, 48), [19.2, 32, 38.4, 57.6], (118.4, 118.5, 118.4)),
        ([Resize(48, 100), TURNS], 4, (64, 48), [19.2, 6.4, 38.4, 32], (118.4, 118.5, 118.4)),
        ([Resize(48, 100), TURNS], 5, (48, 64), [6.4, 9.6, 32, 28.8], (118.4, 118.5, 236.5)),
    ],
)
def test_a_seed_draws_what_it_drew_in_0_1_0(transforms, seed, size, box, means) -> None:
    """The values were recorded with ``Transforms`` of version 0.1.0."""
    transforms = [transforms[0], RandomHorizontalFlip(), *transforms[1:]]
    sample = ImageSample(GRADIENT, np.array([[8, 12, 40, 36]], np.float32), np.zeros(1, np.int64))
    changed = apply_transforms(transforms, sample, seed)
    assert changed.image.shape[:2] == size
    assert changed.boxes[0] == pytest.approx(np.array(box), abs=0.01)
    red, green, _ = changed.image.mean(axis=(0, 1))
    assert (red, green, changed.image[:, -1, 0].mean()) == pytest.approx(means, abs=0.5)


def test_tiles_show_every_object_whole() -> None:
    boxes = [[5, 7, 25, 27], [150, 60, 175, 76], [172, 117, 188, 141], [60, 3, 180, 100]]
    original = picture(144, 200, boxes[:3])
    whole: set[int] = set()
    for seed in range(60):
        tile = apply_transforms([Tiles(48)], original, seed)
        assert tile.image.shape == (48, 48, 3)
        assert len(tile.boxes) > 0
        sides = tile.boxes[:, 2:] - tile.boxes[:, :2]
        full = (original.boxes[:, 2:] - original.boxes[:, :2])[tile.labels]
        assert (sides.prod(axis=1) >= 0.25 * full.prod(axis=1)).all()
        complete = (sides == full).all(axis=1)
        assert complete.any()
        whole |= set(tile.labels[complete].tolist())
        for box, label in zip(tile.boxes[complete].astype(int), tile.labels[complete], strict=True):
            x, y = (box[:2] + box[2:]) // 2  # the colour of its middle third
            assert tile.image[y, x].tolist() == [20 * label] * 3
    assert whole == {0, 1, 2}
    large = apply_transforms([Tiles(48, min_visible=0)], picture(144, 200, boxes[3:])._replace(masks=None), 0)
    assert large.boxes.tolist() == [[0, 0, 48, 48]]  # larger than a tile: each tile lies inside
    assert apply_transforms([Tiles(400)], original, 0).image.shape == (144, 200, 3)
    assert apply_transforms([Tiles(48)], picture(144, 200, []), 0).image.shape == (48, 48, 3)
    with pytest.raises(ConfigError, match="Tiles: min_visible 2 must be between 0 and 1"):
        Tiles(48, min_visible=2)
