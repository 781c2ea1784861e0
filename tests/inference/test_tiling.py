"""Tiles: where they lie, and the merging of their results at the seams."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from detseg.errors import ConfigError
from detseg.inference import ClassificationResult, DetectionResult, SemanticResult
from detseg.inference.regions import open_regions
from detseg.inference.tiling import Tiling, predict_tiles, tile_windows
from detseg.modules import FPN
from detseg.modules.backbones import MobileNetV1
from detseg.ops.rle import MaskWindow, encode, to_string

CLASSES = ("dark", "bright")


def detect(images: Sequence[NDArray[np.uint8]]) -> list[DetectionResult]:
    """Find the connected areas of grey 100 (class 0) and 200 (class 1), with their masks; the score grows with area."""
    return [detect_one(image) for image in images]


def detect_one(image: NDArray[np.uint8]) -> DetectionResult:
    boxes, labels, scores, rles = [], [], [], []
    for label, value in enumerate((100, 200)):
        areas, count = ndimage.label(image[..., 0] == value)
        for number in range(1, count + 1):
            mask = areas == number
            y, x = np.nonzero(mask)
            boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
            labels.append(label)
            scores.append(0.5 + mask.sum() / 1e6)
            rles.append(to_string(encode(MaskWindow(0, 0, mask.T), *mask.shape)))
    order = np.argsort(-np.array(scores), kind="stable").tolist()
    return DetectionResult(
        image_size=image.shape[:2],
        class_names=CLASSES,
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4)[order],
        labels=np.array(labels, dtype=np.int64)[order],
        scores=np.array(scores, dtype=np.float32)[order],
        mask_rles=[rles[position] for position in order],
    )


def scene(height: int = 300, width: int = 500) -> NDArray[np.uint8]:
    """Small discs of both classes everywhere, one inside of another class, and a bar across all tiles."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    generator = np.random.default_rng(0)
    for top in range(25, height - 60, 30):
        for left in range(15, width, 30):
            radius = generator.uniform(4, 11)
            image[(y - top) ** 2 + (x - left) ** 2 < radius**2] = generator.choice([100, 200])
    image[height - 40 : height - 20, 10 : width - 10] = 200
    return image


def as_rows(result: DetectionResult) -> list[Any]:
    masks = result.masks
    assert masks is not None
    rows = zip(result.labels.tolist(), result.boxes.tolist(), [mask.tobytes() for mask in masks], strict=True)
    return sorted(rows)


@pytest.mark.parametrize(("size", "overlap"), [(96, 0.3), (128, 0.5), (200, 0.2), (512, 0.2)])
def test_objects_of_tiles_are_those_of_the_image(size: int, overlap: float) -> None:
    image = scene()
    whole = detect_one(image)
    tiled = predict_tiles(detect, image, Tiling(size, overlap), batch_size=3)
    assert isinstance(tiled, DetectionResult)
    assert len(whole) > 80
    assert tiled.image_size == (300, 500)
    assert as_rows(tiled) == as_rows(whole)  # the discs cut by seams, and the bar over all of them, are whole again
    assert (np.diff(tiled.scores) <= 0).all()


def test_objects_of_other_classes_and_neighbours_stay() -> None:
    """Two objects of one class that touch nearly, and one of another class at the same place."""

    def predict(tiles: Sequence[NDArray[np.uint8]]) -> list[DetectionResult]:
        (tile,) = tiles
        corner = tile[0, 0, 0]  # 0 of the left tile, 1 of the right one, which begins at 64
        left = np.array([[70, 10, 90, 30], [70, 10, 90, 30], [91, 10, 96, 30]], dtype=np.float32)
        boxes = left if corner == 0 else left - [64, 0, 64, 0] + [0, 0, 0, 1]
        scores = np.array([0.9, 0.6, 0.5], dtype=np.float32) - 0.1 * corner
        boxes = boxes.astype(np.float32)
        shared: dict[str, Any] = {"image_size": tile.shape[:2], "class_names": CLASSES}
        return [DetectionResult(**shared, boxes=boxes, labels=np.array([0, 1, 0]), scores=scores)]

    image = np.zeros((96, 160, 3), dtype=np.uint8)
    image[:, 64:] = 1
    result = predict_tiles(predict, image, Tiling(96, 0.3), batch_size=1)
    assert isinstance(result, DetectionResult)
    assert result.labels.tolist() == [0, 1, 0]
    assert result.scores.tolist() == pytest.approx([0.9, 0.6, 0.4])  # the last is cut in the left tile
    assert result.boxes[2].tolist() == [91, 10, 96, 31]


def test_the_tile_with_more_of_the_image_around_an_object_decides() -> None:
    def predict(tiles: Sequence[NDArray[np.uint8]]) -> list[DetectionResult]:
        (tile,) = tiles
        is_right = bool(tile[0, 0, 0])  # which begins at 64
        box, score = ([8, 10, 21, 30], 0.9) if is_right else ([70, 10, 84, 30], 0.6)
        shared: dict[str, Any] = {"image_size": tile.shape[:2], "class_names": CLASSES}
        boxes, scores = np.array([box], dtype=np.float32), np.array([score], dtype=np.float32)
        return [DetectionResult(**shared, boxes=boxes, labels=np.array([0]), scores=scores)]

    image = np.zeros((96, 160, 3), dtype=np.uint8)
    image[:, 64:] = 1
    result = predict_tiles(predict, image, Tiling(96, 0.3), batch_size=1)
    assert isinstance(result, DetectionResult)
    assert result.boxes.tolist() == [[70, 10, 84, 30]]  # 12 pixels from the seam at 96, and 8 from that at 64
    assert result.scores.tolist() == pytest.approx([0.6])


@pytest.mark.parametrize(("height", "width", "size", "overlap"), [(300, 500, 128, 0.25), (90, 1000, 96, 0.0)])
def test_tiles_cover_the_image_and_overlap(height: int, width: int, size: int, overlap: float) -> None:
    windows = tile_windows(height, width, Tiling(size, overlap))
    covered = np.zeros((height, width), dtype=int)
    for left, top, right, bottom in windows:
        assert (right - left, bottom - top) == (min(size, width), min(size, height))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        covered[top:bottom, left:right] += 1
    assert covered.min() == 1
    lefts = sorted({window.left for window in windows})
    assert max(np.diff(lefts)) <= size * (1 - overlap)
    assert all(left % 32 == 0 for left in lefts[:-1])


def test_pixels_come_from_the_tile_that_shows_them_best() -> None:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (150, 220, 3), dtype=np.uint8)

    def predict(tiles: Sequence[NDArray[np.uint8]]) -> list[SemanticResult]:
        results = []
        for tile in tiles:
            labels = tile[..., 0].copy()
            labels[[0, -1]] = labels[:, [0, -1]] = 255  # wrong at the edges, where context is missing
            results.append(SemanticResult(image_size=labels.shape, class_names=CLASSES, labels=labels))  # type: ignore[arg-type]
        return results

    result = predict_tiles(predict, image, Tiling(64, 0.2), batch_size=4)
    assert isinstance(result, SemanticResult)
    assert result.image_size == (150, 220)
    np.testing.assert_array_equal(result.labels[1:-1, 1:-1], image[1:-1, 1:-1, 0])


def test_tiles_refuse_what_makes_no_sense() -> None:
    with pytest.raises(ConfigError, match="tile 8: must be a whole number of pixels, at least 32"):
        Tiling(8)
    with pytest.raises(ConfigError, match="overlap 1: must be between 0 and"):
        Tiling(64, 1)
    result = ClassificationResult(
        image_size=(64, 64), class_names=CLASSES, labels=np.arange(2), scores=np.array([1, 0], np.float32)
    )
    with pytest.raises(ConfigError, match="a classifier sees an image as a whole"):
        predict_tiles(lambda tiles: [result] * len(tiles), np.zeros((64, 64, 3), np.uint8), Tiling(64), 1)


@pytest.mark.parametrize(
    "options", [{"tile": (64, 48)}, {"rowsperstrip": 7}, {"tile": (32, 32), "compression": "zlib"}]
)
@pytest.mark.parametrize("shape", [(150, 220, 3), (150, 220)])
def test_tiff_files_are_read_by_region(tmp_path: Path, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    file = tmp_path / "large.tif"
    tifffile.imwrite(file, image, photometric="rgb" if len(shape) == 3 else "minisblack", **options)
    expected = np.asarray(Image.open(file).convert("RGB"))
    regions = open_regions(file)
    assert regions is not None
    assert regions.shape == (150, 220, 3)
    for top, bottom, left, right in [(0, 150, 0, 220), (0, 64, 48, 96), (33, 97, 100, 220), (33, 97, 0, 50)]:
        region = regions[top:bottom, left:right]
        np.testing.assert_array_equal(region, expected[top:bottom, left:right])
    assert open_regions(tmp_path / "other.png") is None


def test_tiff_files_that_are_one_segment_or_of_too_large_ones_are_read_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.zeros((150, 220, 3), dtype=np.uint8)
    for name, options in {"one.tif": {"rowsperstrip": 150}, "two.tif": {"tile": (128, 256)}}.items():
        tifffile.imwrite(tmp_path / name, image, photometric="rgb", **options)
    assert open_regions(tmp_path / "one.tif") is None
    assert open_regions(tmp_path / "two.tif") is not None
    monkeypatch.setenv("DETSEG_MAX_IMAGE_PIXELS", str(128 * 256 - 1))
    assert open_regions(tmp_path / "two.tif") is None


def test_features_inside_a_tile_are_those_of_the_image() -> None:
    """In double precision: the cells of tiles and image coincide, and only the margin of a tile lacks its context."""
    height, width, margin = 224, 320, 48  # the receptive fields have 63 pixels
    torch.manual_seed(0)
    backbone = FPN(MobileNetV1(alpha=0.125, stages=[2, 3]), channels=4).double().eval()
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)

    def features(pixels: NDArray[np.uint8]) -> list[torch.Tensor]:
        with torch.inference_mode():
            return backbone(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])  # type: ignore[no-any-return]

    whole = features(image)
    windows = tile_windows(height, width, Tiling(128, 0.25))
    assert len(windows) == 6
    for left, top, right, bottom in windows:
        x, y = left + margin * (left > 0), top + margin * (top > 0)
        x_end, y_end = right - margin * (right < width), bottom - margin * (bottom < height)
        for stride, expected, actual in zip(
            backbone.strides, whole, features(image[top:bottom, left:right]), strict=True
        ):
            inside = expected[..., y // stride : y_end // stride, x // stride : x_end // stride]
            same = actual[
                ..., (y - top) // stride : (y_end - top) // stride, (x - left) // stride : (x_end - left) // stride
            ]
            scale = float(inside.std())
            assert scale > 0
            torch.testing.assert_close(same, inside, rtol=0, atol=1e-9 * scale)
