from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detseg.data.loading.collate import assign_bucket, collate, default_pad_shapes
from detseg.resizing import fit
from detseg.structures import Sample

STANDARD = [(800, 800), (800, 1088), (800, 1216), (800, 1344), (1088, 800), (1216, 800), (1344, 800)]


def sample(row: int, height: int, width: int, count: int) -> Sample:
    generator = torch.Generator().manual_seed(row)
    image = torch.randint(1, 255, (height, width, 3), dtype=torch.uint8, generator=generator).permute(2, 0, 1)
    boxes = torch.rand(count, 4, generator=generator)
    return Sample(image, boxes, torch.arange(count), row, (2 * height, 2 * width))


def test_buckets_of_the_standard_recipe() -> None:
    assert default_pad_shapes(800, 1333) == STANDARD


@given(st.integers(1, 1500), st.integers(0, 1500), st.integers(1, 4000), st.integers(1, 4000))
def test_a_bucket_holds_every_resized_image(size: int, more: int, height: int, width: int) -> None:
    shapes = default_pad_shapes(size, size + more)
    assert len(shapes) <= 7
    assert all(edge % 32 == 0 for shape in shapes for edge in shape)
    assert set(shapes) == {(width, height) for height, width in shapes}
    position = assign_bucket(fit(np.array([[height, width]]), size, size + more), shapes)[0]
    assert position >= 0


@given(st.lists(st.tuples(st.integers(1, 1500), st.integers(1, 1500))))
def test_smallest_bucket(sizes: list[tuple[int, int]]) -> None:
    found = assign_bucket(np.array(sizes).reshape(-1, 2), STANDARD)
    for (height, width), position in zip(sizes, found, strict=True):
        areas = [h * w for h, w in STANDARD if h >= height and w >= width]
        assert position == -1 if not areas else np.prod(STANDARD[position]) == min(areas)


@pytest.mark.parametrize(
    ("sizes", "padded"),
    [
        ([(800, 1067), (800, 900)], (800, 1088)),
        ([(1067, 800)], (1088, 800)),
        ([(400, 300)], (800, 800)),
        ([(800, 1067), (1067, 800)], (1088, 1088)),  # nothing holds both
        ([(10, 2000)], (32, 2016)),
    ],
)
def test_padding_goes_to_the_smallest_bucket_that_holds_all(
    sizes: list[tuple[int, int]], padded: tuple[int, int]
) -> None:
    batch = collate([sample(i, *size, 0) for i, size in enumerate(sizes)], STANDARD)
    assert batch.images.shape == (len(sizes), 3, *padded)
    assert batch.image_sizes.tolist() == [list(size) for size in sizes]


@given(st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70), st.integers(0, 9)), min_size=1, max_size=4))
def test_what_goes_in_comes_out(shapes: list[tuple[int, int, int]]) -> None:
    samples = [sample(i + 5, *shape) for i, shape in enumerate(shapes)]
    batch = collate(samples)
    most = max(count for *_, count in shapes)
    count = batch.targets.valid.shape[1]
    assert count >= max(most, 4)
    assert count & (count - 1) == 0
    assert count == 4 or count < 2 * most
    assert batch.targets.labels is not None
    assert batch.images.dtype == torch.uint8
    assert batch.image_index.tolist() == [s.image_index for s in samples]
    assert batch.original_sizes.tolist() == [list(s.original_size) for s in samples]
    for i, one in enumerate(samples):
        height, width = one.image.shape[1:]
        assert torch.equal(batch.images[i, :, :height, :width], one.image)
        assert batch.images[i].long().sum() == one.image.long().sum()  # zero outside
        assert batch.targets.valid[i].tolist() == [True] * len(one.boxes) + [False] * (count - len(one.boxes))
        assert torch.equal(batch.targets.boxes[i][: len(one.boxes)], one.boxes)
        assert torch.equal(batch.targets.labels[i][: len(one.boxes)], one.labels)


def test_no_samples_give_an_empty_batch() -> None:
    batch = collate([], STANDARD)
    assert batch.images.shape == (0, 3, 800, 800)
    assert batch.image_sizes.shape == batch.original_sizes.shape == (0, 2)
    assert batch.targets.boxes.shape == (0, 4, 4)
    assert batch.targets.valid.dtype == torch.bool
    assert batch.image_index.shape == (0,)
    assert batch.image_index.dtype == batch.image_sizes.dtype == torch.int64


def test_images_lie_channels_last() -> None:
    batch = collate([sample(0, 10, 20, 0)] * 2)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
