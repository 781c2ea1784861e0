from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detseg.data.annotations.images import image_size, read_image, read_numbers
from detseg.data.annotations.semantic import read_semantic_mask
from detseg.errors import ConfigError, DataError
from tests.data import made


def turned(path: Path, orientation: int) -> np.ndarray:
    """Write an image of four colours with an EXIF orientation; return what Pillow shows of it."""
    pixels = np.zeros((32, 48, 3), dtype=np.uint8)
    pixels[:16, :24], pixels[:16, 24:], pixels[16:, :24] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, quality=95, exif=exif, subsampling=0)
    from PIL import ImageOps

    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_an_image_is_turned_as_its_exif_says(tmp_path: Path, suffix: str, orientation: int) -> None:
    expected = turned(tmp_path / f"a.{suffix}", orientation)[..., :3].astype(int)
    shown = read_image(tmp_path / f"a.{suffix}")
    assert np.abs(shown - expected).max() < 70  # WebP has few colours
    assert image_size(tmp_path / f"a.{suffix}") == shown.shape[:2]
    stored = read_image(tmp_path / f"a.{suffix}", orientation="stored")
    assert stored.shape == (32, 48, 3)
    assert stored[[4, 4, 28], [4, 44, 4]].argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0nothing", b"Exif\0\0MM\0*\0\0\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02"]
)
def test_broken_exif_turns_nothing(tmp_path: Path, exif: bytes) -> None:
    Image.new("RGB", (48, 32)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape[:2] == image_size(tmp_path / "a.jpg") == (32, 48)


def test_an_image_is_turned_as_its_xmp_says(tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    Image.new("RGB", (48, 32)).save(tmp_path / "a.jpg", xmp=xmp)
    assert read_image(tmp_path / "a.jpg").shape[:2] == image_size(tmp_path / "a.jpg") == (48, 32)


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


def png(side: int, *, bits: int = 8, colour: int = 0, animated: bool = False) -> bytes:
    """A PNG with a header for a square of ``side`` pixels, and next to no content."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0))]
    if animated:
        parts += [
            chunk(b"acTL", struct.pack(">II", 2, 0)),
            chunk(b"fcTL", struct.pack(">5I2H2B", 0, side, side, *[0] * 6)),
        ]
    if colour == 3:
        parts.append(chunk(b"PLTE", bytes(6)))
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(bytes(4000))), chunk(b"IEND", b"")])


def patched(image: Image.Image, name: str, find: bytes, write: bytes, **options: object) -> bytes:
    """The file that Pillow writes, with other bytes behind each place of ``find``."""
    file = io.BytesIO()
    image.save(file, name, **options)
    content = bytearray(file.getvalue())
    assert find in content
    for place in re.finditer(re.escape(find), bytes(content)):
        content[place.end() : place.end() + len(write)] = write
    return bytes(content)


def hostile() -> dict[str, bytes]:
    """Small files of every type whose headers ask for gigabytes."""
    grey, colours = Image.new("L", (16, 16), 1), Image.new("RGB", (16, 16), (1, 2, 3))
    side = struct.pack(">HH", 60_000, 60_000)
    tags = {256: 40_000, 257: 40_000, 258: 8, 259: 1, 262: 1, 273: 8, 278: 40_000, 279: 9}
    tiff = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    webp = (16_382).to_bytes(3, "little")
    frames = {"save_all": True, "append_images": [Image.new("RGB", (16, 16), (9, 2, 3))], "duration": 40}
    return {
        "one.png": png(30_000),
        "palette.png": png(30_000, bits=1, colour=3),
        "deep.png": png(30_000, bits=16, colour=2),
        "animated.png": png(30_000, animated=True),
        "one.jpg": patched(colours, "JPEG", b"\xff\xc0\x00\x11\x08", side),
        "progressive.jpg": patched(colours, "JPEG", b"\xff\xc2\x00\x11\x08", side, progressive=True),
        "one.bmp": b"BM" + struct.pack("<IHHIIiiHH24x", 54, 0, 0, 54, 40, 40_000, 40_000, 1, 24) + bytes(1000),
        "one.gif": patched(grey, "GIF", b"GIF87a", side),
        "frame.gif": patched(grey, "GIF", b",\x00\x00\x00\x00", side),
        "animated.gif": patched(colours, "GIF", b"GIF89a", side, **frames),
        "one.tif": struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + tiff + bytes(100),
        "animated.webp": patched(colours, "WEBP", b"VP8X\n\x00\x00\x00\x02\x00\x00\x00", 2 * webp, **frames),
    }


READERS = (read_image, image_size, read_semantic_mask, read_numbers)


@pytest.mark.parametrize("name", hostile())
def test_an_image_of_too_many_pixels_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(hostile()[name])
    for read in READERS:
        with pytest.raises(DataError, match=rf"{name}: .* pixels, more than the limit of 178,956,970; make it smaller"):
            read(tmp_path / name)


def test_the_limit_can_be_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.image(tmp_path / "a.png", 48, 64)
    monkeypatch.setenv("DETSEG_MAX_IMAGE_PIXELS", "3071")
    with pytest.raises(DataError, match=r"64 x 48 = 3,072 pixels, .* of 3,071; .* DETSEG_MAX_IMAGE_PIXELS=3072"):
        read_image(tmp_path / "a.png")
    monkeypatch.setenv("DETSEG_MAX_IMAGE_PIXELS", "3072")
    assert read_image(tmp_path / "a.png").shape == (48, 64, 3)
    (tmp_path / "huge.png").write_bytes(png(30_000))
    monkeypatch.setenv("DETSEG_MAX_IMAGE_PIXELS", "900000000")
    assert image_size(tmp_path / "huge.png") == (30_000, 30_000)
    monkeypatch.setenv("DETSEG_MAX_IMAGE_PIXELS", "many")
    with pytest.raises(ConfigError, match="DETSEG_MAX_IMAGE_PIXELS: 'many' must be a number"):
        read_image(tmp_path / "a.png")


def test_refusing_takes_no_memory(tmp_path: Path) -> None:
    for name, content in hostile().items():
        (tmp_path / name).write_bytes(content)
    script = """
import resource, sys
from pathlib import Path
from detseg.errors import DataError
from tests.data.annotations.test_images import READERS

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in Path(sys.argv[1]).iterdir():
    for read in READERS:
        try:
            read(path)
        except DataError:
            pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 400 << 10  # KiB


def test_a_failed_download_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    for read in READERS:
        with pytest.raises(DataError, match=r"a\.jpg: a Git LFS pointer .* `git lfs pull`"):
            read(tmp_path / "a.jpg")
