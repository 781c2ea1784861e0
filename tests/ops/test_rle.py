from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pycocotools import mask as reference
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detseg.ops.rle import (
    ColumnRuns,
    MaskWindow,
    area,
    box_masks_to_rle,
    column_runs,
    decode,
    encode,
    from_column_runs,
    from_string,
    paste_mask,
    to_string,
    vote,
)


def coco(mask: NDArray[np.bool_]) -> bytes:
    return reference.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


@pytest.mark.parametrize("seed", range(300))
def test_run_lengths_are_pycocotools(seed: int) -> None:
    """Of every kind of mask, a full and an empty one and those of one row or column among them, and in any window."""
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 12, 2).tolist()
    mask = random.random((height, width)) < random.choice([0, 0.1, 0.5, 0.9, 1])
    top, left = int(random.integers(0, height)), int(random.integers(0, width))
    mask[:top], mask[:, :left] = False, False
    counts = encode(MaskWindow(left, top, mask[top:, left:].T), height, width)
    assert to_string(counts) == coco(mask)
    assert np.array_equal(decode(counts, height, width), mask)
    assert area(counts) == mask.sum()
    assert np.array_equal(from_string(coco(mask)), counts)


@pytest.mark.parametrize("size", [1, 15, 16, 511, 512, 16383, 16384, 524287, 524288, 2**30])
def test_long_runs(size: int) -> None:
    counts = np.array([size, 1, 3, size, 5, 2 * size, 1, 0])
    assert np.array_equal(from_string(to_string(counts)), counts)
    height = int(counts.sum())
    theirs = reference.frPyObjects({"size": [height, 1], "counts": counts.tolist()}, height, 1)["counts"]
    assert to_string(counts) == theirs


@pytest.mark.parametrize("text", [b"", b"a~", b"02\x20", "é".encode(), b"ooooooooo1"])
def test_malformed_strings(text: bytes) -> None:
    with pytest.raises(ValueError, match="its counts"):
        from_string(text)


def detections(count: int, height: int, width: int, low: int, high: int) -> tuple[NDArray[np.float32], ...]:
    """Smooth random masks, and boxes of which some reach the edges of the image."""
    random = np.random.default_rng(count)
    coarse = torch.from_numpy(random.normal(size=(count, 1, 6, 6)))
    masks = torch.sigmoid(3 * F.interpolate(coarse, size=28, mode="bicubic"))[:, 0].numpy()
    half, middle = random.uniform(low, high, (count, 2)) / 2, random.random((count, 2)) * (width, height)
    boxes = np.concatenate([middle - half, middle + half], axis=1).clip(0, [width, height, width, height])
    return masks.astype(np.float32), boxes.astype(np.float32)


def grid_sample(mask: NDArray[np.float32], box: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """The probabilities of all pixels as detectron2 computes them."""
    x1, y1, x2, y2 = torch.from_numpy(box)
    y = (torch.arange(height) + 0.5 - y1) / (y2 - y1) * 2 - 1
    x = (torch.arange(width) + 0.5 - x1) / (x2 - x1) * 2 - 1
    grid = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1)
    return F.grid_sample(torch.from_numpy(mask)[None, None], grid[None], align_corners=False)[0, 0].numpy()


def test_pixels_are_those_of_grid_sample() -> None:
    for mask, box in zip(*detections(40, 120, 180, 3, 150), strict=True):
        expected = grid_sample(mask, box, 120, 180)
        found = paste_mask(mask, box, 120, 180).full_mask(120, 180)
        clear = np.abs(expected - 0.5) > 1e-4
        assert clear.mean() > 0.99
        assert np.array_equal(found[clear], expected[clear] >= 0.5)


def test_pixels_are_near_those_of_torchvision() -> None:
    """It rounds boxes to whole pixels, so its masks are moved by up to one."""
    masks, boxes = detections(20, 300, 400, 60, 200)
    theirs = paste_masks_in_image(torch.from_numpy(masks)[:, None], torch.from_numpy(boxes), (300, 400))[:, 0] >= 0.5
    overlaps = []
    for mask, box, expected in zip(masks, boxes, theirs.numpy(), strict=True):
        found = paste_mask(mask, box, 300, 400).full_mask(300, 400)
        overlaps.append((found & expected).sum() / (found | expected).sum())
    assert np.mean(overlaps) > 0.95


@pytest.mark.parametrize("box", [[5, 5, 5, 5], [-20, -20, -3, -3], [60, 60, 90, 90], [0, 0, 50, 40], [3, 4, 3.2, 4.1]])
def test_boxes_without_pixels_and_of_the_whole_image(box: list[float]) -> None:
    full = np.ones((28, 28), np.float32)
    text = next(box_masks_to_rle(full[None], np.array([box], np.float32), 40, 50))
    inside = decode(from_string(text), 40, 50)
    assert inside.sum() == (2000 if box == [0, 0, 50, 40] else 0)


def test_a_hundred_masks_never_need_a_hundred_maps() -> None:
    masks, boxes = detections(100, 800, 1333, 20, 400)
    tracemalloc.start()
    rle_strings = list(box_masks_to_rle(masks, boxes, 800, 1333))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rle_strings) == 100
    assert peak < 8 * 800 * 1333  # bytes: less than eight maps of one byte a pixel, where a hundred are pasted


@pytest.mark.parametrize("seed", range(4))
def test_masks_move_and_vote_by_their_runs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    height, width = 7 + seed, 9
    masks = generator.random((3, height, width)) < [[[0.3]], [[0.5]], [[0.9 if seed else 0.0]]]
    masks[1, :, 2:5] = True  # a run of several columns
    encoded = [encode(MaskWindow(0, 0, mask.T), height, width) for mask in masks]
    for mask, counts in zip(masks, encoded, strict=True):
        column, start, stop = column_runs(counts, height)
        flipped = from_column_runs(ColumnRuns(width - 1 - column, start, stop), height, width)
        np.testing.assert_array_equal(decode(flipped, height, width), mask[:, ::-1])
        moved = from_column_runs(ColumnRuns(column + 4, start + 2, stop + 2), height + 3, width + 5)
        expected = np.zeros((height + 3, width + 5), dtype=bool)
        expected[2 : 2 + height, 4 : 4 + width] = mask
        np.testing.assert_array_equal(decode(moved, height + 3, width + 5), expected)
    weights = [0.2, 0.3, 0.1]
    for threshold in (0.1, 0.3, 0.5, 0.6):
        voted = decode(vote(encoded, weights, threshold), height, width)
        np.testing.assert_array_equal(voted, np.tensordot(weights, masks, 1) >= threshold - 1e-12)
