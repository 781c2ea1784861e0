"""A training stops at an image that cannot be used, or goes on without a few of them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from detseg.data import COCO, ImageSample, Mosaic, RandomHorizontalFlip, Resize, Transform
from detseg.data.loading.dataset import BadSamples, SkipBadSamples
from detseg.errors import DataError
from detseg.structures import Sample
from tests.data import made


class Numbers(Dataset[Sample]):
    """Samples that are known by their row, some of which cannot be had."""

    def __init__(self, count: int, bad: set[int]) -> None:
        self.count, self.bad, self.tried = count, bad, []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        row = key[0] if isinstance(key, tuple) else key
        self.tried.append(key)
        if row in self.bad:
            raise DataError(f"{row}.jpg: broken")
        return Sample(torch.zeros(3, 1, 1), torch.zeros(0, 4), torch.zeros(0), row, (1, 1))


def test_the_next_one_comes_in_its_place_and_it_is_tried_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    numbers = Numbers(3000, {5, 6, 2999})
    found = SkipBadSamples(numbers)
    assert [found[row].image_index for row in (4, 5, 6, 2999, 5)] == [4, 7, 7, 0, 7]
    assert found[(5, 99)].image_index == 7
    assert numbers.tried[-1] == (7, 99)
    assert [numbers.tried.count(row) for row in (5, 6, 2999)] == [1, 1, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "left out, 1 of at most 3 images: 5.jpg: broken",
        "left out, 2 of at most 3 images: 6.jpg: broken",
        "left out, 3 of at most 3 images: 2999.jpg: broken",
    ]


@pytest.mark.parametrize(("count", "budget"), [(10, 1), (1000, 1), (1001, 1), (1999, 1), (2000, 2), (5000, 5)])
def test_the_budget_is_a_thousandth_and_one_at_least(count: int, budget: int) -> None:
    found = SkipBadSamples(Numbers(count, set(range(budget + 1))))
    with pytest.raises(DataError, match=rf"{budget + 1} of {count} images .* allows {budget} .*{budget}.jpg: broken"):
        found[0]


def test_a_broken_partner_of_a_mosaic_is_not_counted_for_it(tmp_path: Path) -> None:
    made.simple_coco(tmp_path / "train.json", tmp_path / "images", count=12)
    made.simple_coco(tmp_path / "val.json", tmp_path / "images", count=12)
    (tmp_path / "images" / "5.png").write_text("no image")
    data = COCO(str(tmp_path), transforms=[Resize(48, 64), Mosaic(p=1), RandomHorizontalFlip()])
    found = SkipBadSamples(data.dataset("train"))
    for seed in range(12):
        assert [found[(row, seed)].image_index for row in range(12)] == [0, 1, 2, 3, 4, 6, 6, 7, 8, 9, 10, 11]
    assert found.bad.nonzero().ravel().tolist() == [5]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_set(tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture) -> None:
    made.simple_coco(tmp_path / "train.json", tmp_path / "images", count=6)
    made.simple_coco(tmp_path / "val.json", tmp_path / "images", count=6)
    (tmp_path / "images" / "2.png").write_text("no image")

    def rows(policy: BadSamples, split: str = "train") -> list[int]:
        data = COCO(str(tmp_path), transforms=[Resize(48, 64)], num_workers=workers, bad_samples=policy)
        loader = data.train_dataloader() if split == "train" else data.val_dataloader()
        return sorted(row for batch in loader for row in batch.image_index.tolist())

    assert rows("skip") == [0, 1, 3, 3, 4, 5]
    for policy, split in (("error", "train"), ("skip", "val"), ("error", "val"))[: 1 if workers else 3]:
        with pytest.raises(DataError, match=r"2\.png: not an image"):
            rows(policy, split)  # type: ignore[arg-type]
    if workers:
        return
    with caplog.at_level(logging.WARNING):
        (tmp_path / "images" / "4.png").unlink()
        with pytest.raises(DataError, match="2 of 6 images cannot be used"):
            rows("skip")


def test_missing_images_are_counted_before_training_begins(tmp_path: Path) -> None:
    for name in ("train", "val"):
        made.simple_coco(tmp_path / f"{name}.json", tmp_path / "images", count=6)
    for name in ("2.png", "4.png"):
        (tmp_path / "images" / name).unlink()
    data = COCO(str(tmp_path), num_workers=0)
    for loader in (data.train_dataloader, data.val_dataloader):
        with pytest.raises(DataError, match=r"images/2.png: no such image; 2 of 6 are missing"):
            loader()
    assert COCO(str(tmp_path), num_workers=0, bad_samples="skip").train_dataloader()  # left out, or an error later
    for name in ("2.png", "4.png"):
        made.image(tmp_path / "images" / name)
    assert data.train_dataloader()


class NewLabels(Transform):
    """Gives every object a label that the data set does not have."""

    def __init__(self, label: int) -> None:
        self.label = label

    def __call__(self, sample: ImageSample, generator: np.random.Generator) -> ImageSample:
        return sample._replace(labels=np.full_like(sample.labels, self.label))


@pytest.mark.parametrize("label", [2, -1])
def test_a_label_of_no_class_is_an_error(tmp_path: Path, label: int) -> None:
    """The label K is the background of a box head, and would train it silently."""
    for name in ("train", "val"):
        made.simple_coco(tmp_path / f"{name}.json", tmp_path / "images", count=2)
    data = COCO(str(tmp_path), transforms=[Resize(48, 64), NewLabels(label)])
    with pytest.raises(DataError, match=rf"0.png: has the label {label}, but labels go from 0 to 1"):
        data.dataset("train")[0]
    assert data.dataset("val")[0].labels.tolist() == [0]
