from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detseg.data.annotations.images import image_size, read_image
from detseg.errors import DataError
from tests.data import made


def turned(path: Path, orientation: int) -> np.ndarray:
    """Write a JPEG of four colours with an EXIF orientation; return what Pillow shows of it."""
    pixels = np.zeros((32, 48, 3), dtype=np.uint8)
    pixels[:16, :24], pixels[:16, 24:], pixels[16:, :24] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, quality=95, exif=exif, subsampling=0)
    from PIL import ImageOps

    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(tmp_path: Path, orientation: int) -> None:
    expected = turned(tmp_path / "a.jpg", orientation)
    found = read_image(tmp_path / "a.jpg")
    assert np.abs(found.astype(int) - expected).max() < 12
    assert image_size(tmp_path / "a.jpg") == found.shape[:2]


def test_labels_for_the_pixels_as_stored_get_those(tmp_path: Path) -> None:
    turned(tmp_path / "a.jpg", 6)
    assert read_image(tmp_path / "a.jpg").shape == (48, 32, 3)
    assert read_image(tmp_path / "a.jpg", (48, 32)).shape == (48, 32, 3)
    stored = read_image(tmp_path / "a.jpg", (32, 48))
    assert stored.shape == (32, 48, 3)
    assert stored[4, 4].argmax() == 0  # red at the top left


def test_grey_and_transparent_images_have_three_channels(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([grey] * 4))
    for name in ("grey.png", "alpha.png"):
        assert np.array_equal(read_image(tmp_path / name), np.dstack([grey] * 3))


def test_colours_are_red_green_blue(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), (10, 20, 30)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("content", [None, b"", b"no image", "cut"])
def test_a_missing_or_broken_image_is_named(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "broken.jpg"
    if content == "cut":
        whole = made.image(path).read_bytes()
        path.write_bytes(whole[: len(whole) // 3])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.jpg"):
        read_image(path)
    if content != "cut":
        with pytest.raises(DataError, match=r"broken\.jpg"):
            image_size(path)


def test_an_image_of_another_size_than_labelled_is_named(tmp_path: Path) -> None:
    made.image(tmp_path / "a.png", 48, 64)
    with pytest.raises(DataError, match=r"a.png: the image is 64x48 but its annotation says 100x80"):
        read_image(tmp_path / "a.png", (80, 100))


def test_an_image_of_too_many_pixels_is_named(tmp_path: Path) -> None:
    head = struct.pack("<IHHIIiiHH24x", 54, 0, 0, 54, 40, 40_000, 40_000, 1, 24)
    (tmp_path / "huge.bmp").write_bytes(b"BM" + head + bytes(1000))
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=r"huge\.bmp: cannot .* make it smaller"):
            read(tmp_path / "huge.bmp")
