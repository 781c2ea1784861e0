from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.data import COCO
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.loading.samplers import ClassBalanced, RepeatFactor, TrainingSampler
from detseg.errors import ConfigError
from tests.data import made

TIMES = st.lists(st.tuples(st.integers(-1, 2), st.floats(0.1, 5)), min_size=1, max_size=30)


def of(images: list[list[int]], classes: int) -> DetectionAnnotations:
    """Images with objects of these labels."""
    found = made.annotations([len(labels) for labels in images], classes)
    labels = np.array([label for labels in images for label in labels], dtype=np.int64)
    return replace(found, labels=labels, crowd=np.zeros(len(labels), bool), difficult=np.zeros(len(labels), bool))


def drawn(groups: np.ndarray, times: np.ndarray, batch: int, ranks: int, epoch: int) -> list[list[list[int]]]:
    """Rows of each batch of each rank."""
    found = []
    for rank in range(ranks):
        sampler = TrainingSampler(groups, batch, 3, rank, ranks, repeat_factors=times)
        sampler.set_epoch(epoch)
        found.append([[row for row, _ in rows] for rows in sampler])
        assert len(found[-1]) == len(sampler)
    return found


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), max_size=5), min_size=1, max_size=20), st.floats(0.001, 1))
def test_repeat_factors_are_those_of_the_paper(images: list[list[int]], threshold: float) -> None:
    times = RepeatFactor(threshold).repeat_factors(of(images, 5))
    for labels, found in zip(images, times, strict=True):
        factors = [1.0]
        for label in labels:
            share = sum(label in others for others in images) / len(images)
            factors.append(max(1, (threshold / share) ** 0.5))
        assert found == pytest.approx(max(factors))


def test_repeat_factors_worked_out() -> None:
    """100 images, of which one has the rare class: sqrt(0.16 / 0.01) = 4 times; half have the other: once."""
    images = [[0], [1, 1], *([[0]] * 49), *([[]] * 49)]
    assert RepeatFactor(0.16).repeat_factors(of(images, 2)).tolist() == pytest.approx([1, 4] + [1] * 98)


def test_balanced_classes_come_equally_often() -> None:
    images = [[0]] * 60 + [[1]] * 20 + [[2, 2]] * 4 + [[]] * 16
    annotations = of(images, 4)  # the last class has no objects
    times = ClassBalanced().repeat_factors(annotations)
    assert times[84:].tolist() == [1] * 16
    assert times.sum() == pytest.approx(100)
    assert [times[:60].sum(), times[60:80].sum(), times[80:84].sum()] == pytest.approx([28] * 3)
    both = ClassBalanced().repeat_factors(of([[0], [0], [0, 1]], 2))
    assert both.tolist() == pytest.approx([0.5, 0.5, 2])  # 3/2 (1/3), and 3/2 (1/3 + 1)


def test_crowds_and_difficult_objects_do_not_count() -> None:
    annotations = of([[0, 1], [0], [0]], 2)
    hidden = annotations.labels == 1
    for field in ("crowd", "difficult"):
        changed = replace(annotations, **{field: hidden})
        assert RepeatFactor(1.0).repeat_factors(changed).tolist() == [1, 1, 1]
        assert ClassBalanced().repeat_factors(changed).tolist() == pytest.approx([1, 1, 1])


@settings(deadline=None)
@given(TIMES, st.integers(1, 4), st.integers(1, 3), st.integers(0, 4))
def test_epochs_are_equally_long_and_ranks_share_them(
    images: list[tuple[int, float]], batch: int, ranks: int, epoch: int
) -> None:
    groups, times = np.array([group for group, _ in images]), np.array([number for _, number in images])
    shared = drawn(groups, times, batch, ranks, epoch)
    assert {len(batches) for batches in shared} == {-(-max(1, round(times.sum())) // (batch * ranks))}
    alone = drawn(groups, times, batch * ranks, 1, epoch)[0]
    counts = Counter(row for rows in alone for row in rows)
    assert counts.total() == max(1, round(times.sum()))
    scaled = times * (max(1, round(times.sum())) / times.sum())
    for row, expected in enumerate(scaled):
        assert np.floor(expected - 1e-6) <= counts[row] <= np.ceil(expected + 1e-6)
    for together, *parts in zip(alone, *shared, strict=True):
        concat_contours = [row for rows in parts for row in rows]
        assert concat_contours == together or (len(together) < ranks and set(concat_contours) == set(together))


def test_images_come_as_often_as_they_should_and_other_ones_in_each_epoch() -> None:
    times = np.array([1.0, 0.25, 2.5, 1.25, 3.0])
    epochs = [drawn(np.zeros(5, int), times, 2, 1, epoch)[0] for epoch in range(400)]
    counts = Counter(row for batches in epochs for rows in batches for row in rows)
    assert [counts[row] / 400 for row in range(5)] == pytest.approx(times, abs=0.1)
    assert drawn(np.zeros(5, int), times, 2, 1, 7) == drawn(np.zeros(5, int), times, 2, 1, 7)
    assert len({str(batches) for batches in epochs}) > 300


def test_an_image_that_comes_twice_is_changed_differently() -> None:
    keys = [key for rows in TrainingSampler(np.zeros(4, int), 3, repeat_factors=np.full(4, 3.0)) for key in rows]
    assert len(keys) == 12
    assert len({seed for _, seed in keys}) == 12


def test_the_data_gives_its_sampling_to_the_sampler(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "height": 48, "width": 64} for i in range(20)]
    objects = [{"id": i, "image_id": i, "category_id": 1 + (i == 4), "bbox": [4, 6, 20, 30]} for i in range(20)]
    made.coco(tmp_path / "a.json", images, objects, {1: "cat", 2: "dog"})
    for image in images:
        made.image(tmp_path / image["file_name"])
    data = COCO(str(tmp_path), split={"train": "a.json", "val": "a.json"}, num_workers=0, sampling=RepeatFactor(0.8))
    rows = [row for keys in data.train_dataloader().batch_sampler for row, _ in keys]
    assert Counter(rows) == {row: 4 if row == 4 else 1 for row in range(20)}  # sqrt(0.8 / 0.05) = 4
    assert sorted(row for rows in data.val_dataloader().batch_sampler for row in rows) == list(range(20))


@pytest.mark.parametrize("threshold", [0, -1, 1.5])
def test_a_threshold_that_is_no_share_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match=r"RepeatFactor: threshold"):
        RepeatFactor(threshold)
