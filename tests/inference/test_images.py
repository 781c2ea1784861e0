"""Every kind of source gives the same pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detseg.errors import DataError
from detseg.inference.images import ImageNames, iterate_images, open_image


def random_image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(7, 9), (7, 9, 3), (7, 9, 4)])
def test_file_pil_array_and_tensor_are_the_same_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = random_image(*shape)
    expected = np.stack([array] * 3, axis=2) if len(shape) == 2 else array[:, :, :3]
    picture = Image.fromarray(array)
    picture.save(tmp_path / "a.png")
    sources: list[Any] = [tmp_path / "a.png", picture, array]
    if shape[2:] != (4,):
        tensor = torch.from_numpy(array if len(shape) == 3 else array[:, :, None]).permute(2, 0, 1)
        sources += [tensor, tensor.double() / 255]
    for source in sources:
        pixels = open_image(source).pixels
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, expected)
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable


def test_a_palette_16_bits_and_an_orientation_are_read_as_in_files(tmp_path: Path) -> None:
    palette = Image.fromarray(random_image(8, 10, 3)).quantize(16)
    deep = Image.fromarray(np.random.default_rng(1).integers(0, 65536, (8, 10)).astype(np.uint16))
    turned = Image.fromarray(random_image(8, 10, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    for name, picture, options in (("palette", palette, {}), ("deep", deep, {}), ("turned", turned, {"exif": exif})):
        file = tmp_path / f"{name}.png"
        picture.save(file, **options)
        with Image.open(file) as opened:
            assert np.array_equal(open_image(opened).pixels, open_image(file).pixels), name
    assert open_image(tmp_path / "turned.png").pixels.shape == (10, 8, 3)


def test_an_array_may_be_filled_again() -> None:
    array = random_image(5, 6, 3)
    expected = array.copy()
    image = open_image(array)
    array[:] = 0
    assert np.array_equal(image.pixels, expected)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"shape \(4, 4, 3\) and type float32: arrays must be uint8 RGB"),
        (np.zeros((3, 4, 5), np.uint8), r"shape \(3, 4, 5\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (torch.full((3, 4, 4), 2.0), "must lie between 0 and 1"),
        (torch.full((3, 4, 4), float("nan")), "must lie between 0 and 1"),
        (4, "cannot predict on a int"),
    ],
)
def test_other_images_are_refused(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_image(source)


def test_sources_are_iterated_in_order(tmp_path: Path) -> None:
    names = ["b.png", "a.jpg", "c.txt"]
    for name in names:
        Image.fromarray(random_image(4, 4, 3)).save(tmp_path / name, "png")
    array, tensor = random_image(2, 4, 4, 3), torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    files = [path.name for path in iterate_images(str(tmp_path))]
    assert files == ["a.jpg", "b.png"]
    assert [path.name for path in iterate_images(f"{tmp_path}/*.txt")] == ["c.txt"]
    mixed = list(iterate_images([tmp_path, array, [tensor, array[0]], tmp_path / "b.png"]))
    assert [type(item).__name__ for item in mixed] == [
        *["PosixPath"] * 2,
        *["ndarray"] * 2,
        *["Tensor"] * 2,
        "ndarray",
        "PosixPath",
    ]
    missing, last = iterate_images([tmp_path / "nowhere.jpg", tmp_path / "b.png"])
    with pytest.raises(DataError, match=r"nowhere\.jpg: no such image"):
        open_image(missing)
    assert last == tmp_path / "b.png"
    listed = iterate_images(ImageNames([str(tmp_path), f"{tmp_path}/c.txt", "*.png", "zip://a.png::b.zip"]))
    assert [str(item) for item in listed] == [str(tmp_path), f"{tmp_path}/c.txt", "*.png", "zip://a.png::b.zip"]
    with pytest.raises(DataError, match="null byte"):
        open_image(Path("a\0.png"))
