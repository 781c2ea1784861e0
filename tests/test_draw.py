import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detseg.draw import colour, draw, grid, overlay, palette, save_labels

CLASSES = ("cat", "a dog with a very long name that fits in no picture of this size")


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def painted(picture: np.ndarray, label: int) -> np.ndarray:
    """Where a picture has exactly the colour of a class."""
    return (picture == colour(label)).all(axis=2)


def test_draws_the_edge_of_the_box_and_leaves_the_image_alone() -> None:
    image = grey(200, 300)
    picture = draw(image, [[50, 60, 250, 180]], [0], CLASSES)
    assert (image == 128).all()
    assert picture.shape == image.shape
    assert picture.dtype == np.uint8
    mask = painted(picture, 0)
    assert mask[60, 50:250].all()
    assert mask[179, 50:250].all()
    assert mask[60:180, 50].all()
    assert mask[60:180, 249].all()
    assert not mask[180:].any()
    assert not mask[:, 250:].any()
    assert (picture[80:160, 70:230] == 128).all()


def test_masks_tint_their_pixels_alone() -> None:
    image, mask = grey(200, 300), np.zeros((200, 300), bool)
    mask[80:120, 100:200] = True
    plain, tinted = (draw(image, [[50, 60, 250, 180]], [0], CLASSES, masks=masks) for masks in ((), iter([mask])))
    assert (image == 128).all()
    assert np.array_equal(tinted[~mask], plain[~mask])
    tint = 0.4 * 128 + 0.6 * np.array(colour(0))
    assert np.abs(tinted[81:119, 101:199] - tint).max() <= 0.5
    mask[81:119, 101:199] = False
    assert np.abs(tinted[mask] - tint / 3).max() <= 1


def test_masks_of_a_class_that_touch_are_told_apart() -> None:
    masks = np.zeros((2, 200, 300), bool)
    masks[0, 80:120, 100:150] = masks[1, 80:120, 140:200] = True
    picture = draw(grey(200, 300), [[50, 60, 250, 180]] * 2, [0, 0], CLASSES, masks=masks)
    dark = (picture[100, 100:200].sum(axis=1) < 0.6 * picture[100, 120].sum()).nonzero()[0] + 100
    assert dark.tolist() == [100, 149, 150, 199]


@pytest.mark.parametrize("size", [(40, 60), (480, 640), (2000, 1500)])
@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_tag_lies_inside_the_image_wherever_the_box_is(size: tuple[int, int], corner: tuple[int, int]) -> None:
    height, width = size
    top, left = np.array(corner) * (np.array(size) - 4)
    tag = painted(draw(grey(height, width), [[left, top, left + 4, top + 4]], [0], CLASSES, [0.875]), 0)
    middle = painted(
        draw(grey(height, width), [[width / 2, height / 2, width / 2 + 4, height / 2 + 4]], [0], CLASSES), 0
    )
    assert tag.sum() >= 0.9 * middle.sum() > 100
    assert np.ptp(np.flatnonzero(tag.any(axis=1))) >= 9  # legible: ten pixels high at least


@pytest.mark.parametrize(
    "box", [(2, 2, 12, 12), (60, 0, 68, 60), (148, 0, 160, 12), (0, 108, 12, 120), (70, 50, 80, 60), (20, 0, 160, 9)]
)
def test_a_tag_larger_than_its_box_lies_outside(box: tuple[int, int, int, int]) -> None:
    x1, y1, x2, y2 = box
    mask = painted(draw(grey(120, 160), [box], [0], ["person"], [0.9]), 0)
    frame = (x2 - x1) * (y2 - y1) - (x2 - x1 - 4) * (y2 - y1 - 4)  # two pixels wide
    assert mask[y1:y2, x1:x2].sum() == frame
    assert mask.sum() > frame + 200


def test_every_score_is_to_be_seen() -> None:
    boxes, labels = [[20, 30, 80, 90]], [0]
    pictures = [draw(grey(120, 160), boxes, labels, CLASSES, scores) for scores in (None, [0.1], [0.9])]
    assert all((a != b).any() for a, b in itertools.combinations(pictures, 2))


def test_tags_of_the_same_place_step_aside() -> None:
    box = [100.0, 100.0, 300.0, 250.0]
    one = painted(draw(grey(400, 400), [box], [0], CLASSES, [0.9]), 0)
    two = painted(draw(grey(400, 400), [box, box], [0, 0], CLASSES, [0.9, 0.9]), 0)
    assert two.sum() > one.sum() + 200
    assert two[one].all()


def test_a_long_name_is_cut_short_but_not_the_score() -> None:
    pictures = [draw(grey(100, 150), [[0, 40, 150, 90]], [1], CLASSES, [score]) for score in (0.25, 0.5)]
    quarter, half = (picture[28:38] for picture in pictures)
    right = np.flatnonzero(painted(quarter, 1).all(axis=0)).max()
    assert 130 < right < 150
    assert (quarter[:, :2] == colour(1)).all()  # a margin is left
    assert (quarter[:, right - 20 : right] != half[:, right - 20 : right]).any()
    assert (quarter[:, : right - 25] == half[:, : right - 25]).all()


def test_the_best_detection_is_on_top() -> None:
    box = [10.0, 30.0, 60.0, 90.0]
    for scores, top in (([0.9, 0.2], 0), ([0.2, 0.9], 1)):
        picture = draw(grey(120, 120), [box, box], [0, 1], CLASSES, scores)
        assert painted(picture, top)[60, 10]


@pytest.mark.parametrize("box", [[-50, -50, 500, 500], [90, 90, 90, 90], [30, 30, 10, 10], [200, 200, 300, 300]])
def test_takes_any_box(box: list[float]) -> None:
    assert draw(grey(100, 100), [box], [1], CLASSES, [1.0]).shape == (100, 100, 3)


def test_nothing_to_draw() -> None:
    picture = draw(grey(20, 30), np.zeros((0, 4)), np.zeros(0, int), CLASSES, np.zeros(0))
    assert (picture == 128).all()


def test_colours_are_far_apart_and_carry_legible_text() -> None:
    colours = np.array([colour(label) for label in range(20)], dtype=float)
    assert colour(3) == colour(3)
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=2) + np.eye(20) * 999
    assert distances.min() > 40
    assert np.diagonal(distances, 1).min() > 130
    for label in range(20):
        picture = draw(grey(1000, 2000), [[500, 500, 900, 900]], [label], ["HHHHHHH"] * 20)
        text = picture[475:490, 505:600].reshape(-1, 3)
        contrasts = [contrast(pixel, colour(label)) for pixel in np.unique(text, axis=0)]
        assert max(contrasts) >= 4.5, label


def contrast(first: np.ndarray, second: tuple[int, int, int]) -> float:
    """Contrast of two colours as the Web Content Accessibility Guidelines 2 define it; 4.5 is asked of text."""
    shades = np.array([first, second]) / 255
    linear = np.where(shades <= 0.04045, shades / 12.92, ((shades + 0.055) / 1.055) ** 2.4)
    dark, light = sorted(linear @ (0.2126, 0.7152, 0.0722))
    return (light + 0.05) / (dark + 0.05)


def test_a_grid_keeps_pictures_in_rows() -> None:
    black, white = np.zeros((100, 200, 3), np.uint8), np.full((50, 60, 3), 255, np.uint8)
    sheet = grid([[black, white], [white, black]], side=100)
    assert sheet.shape == (50 + 4 + 50, 100 + 4 + 100, 3)
    assert sheet.dtype == np.uint8
    assert (sheet[:50, :100] == 0).all()
    assert (sheet[:50, 104:164] == 255).all()
    assert (sheet[54:, :60] == 255).all()
    assert (sheet[54:, 104:] == 0).all()
    assert (sheet[50:54] == 64).all()


def test_palette_of_voc() -> None:
    """Colours as the development kit prints them."""
    assert palette()[[0, 1, 2, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]
    assert len(np.unique(palette(), axis=0)) == 256


def test_a_written_map_of_labels_holds_numbers_and_shows_colours(tmp_path: Path) -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    save_labels(labels, tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as image:
        assert image.mode == "P"
        assert (np.asarray(image) == labels).all()
        assert (np.asarray(image.convert("RGB")) == palette()[labels]).all()


def test_an_overlay_tints_classes_and_leaves_void_as_it_is() -> None:
    labels = np.zeros((120, 160), np.uint8)
    labels[:, 80:], labels[:30] = 1, 255
    picture = overlay(grey(120, 160), labels, ("sky", "road", "never shown"))
    assert picture.dtype == np.uint8
    assert (picture[:30] == 128).all()
    assert (picture[30:120, :80] == round(0.4 * 128)).all()
    assert (picture[30:120, 80:] == [round(0.4 * 128 + 0.6 * 128), round(0.4 * 128), round(0.4 * 128)]).all()
    legend = picture[120:]
    assert 10 < len(legend) < 40
    shown = {tuple(pixel) for pixel in legend.reshape(-1, 3).tolist()}
    assert {tuple(palette()[0].tolist()), tuple(palette()[1].tolist())} <= shown
    assert tuple(palette()[2].tolist()) not in shown


def test_a_legend_breaks_its_lines_and_cuts_long_names() -> None:
    labels = np.arange(100, dtype=np.uint8).reshape(10, 10).repeat(20, 0).repeat(20, 1)
    picture = overlay(grey(200, 200), labels, ["a class with a name that is longer than the picture is wide"] * 100)
    assert picture.shape[1] == 200
    assert picture.shape[0] > 200 + 100 * 10
    assert overlay(grey(20, 20), np.full((20, 20), 255, np.uint8), ("sky",)).shape == (20, 20, 3)
