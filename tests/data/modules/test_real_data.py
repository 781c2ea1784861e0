"""Counts of real data sets, as their authors and a look at the files give them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detseg.data import COCO, VOC, DetectionDataModule, RandomHorizontalFlip, Resize

VOC_WITHOUT_BIRD = (
    *("aeroplane", "bicycle", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse"),
    *("motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

SMALL = [Resize(64, 96), RandomHorizontalFlip()]


def counts(data: DetectionDataModule) -> tuple[int, ...]:
    """Images and objects for training, and for validation."""
    train, val = data.train_annotations, data.val_annotations
    return len(train), len(train.boxes), len(val), len(val.boxes)


def check_samples(data: DetectionDataModule) -> None:
    """Every image can be read, and what is learnt lies inside it."""
    for loader, expected in (
        (data.train_dataloader(), data.train_annotations),
        (data.val_dataloader(), data.val_annotations),
    ):
        seen = 0
        for batch in loader:
            seen += len(batch.image_index)
            assert batch.original_sizes.tolist() == expected.sizes[batch.image_index.numpy()].tolist()
            boxes, limits = batch.targets.boxes, batch.image_sizes.flip(1).repeat(1, 2)[:, None]
            inside = (boxes >= 0) & (boxes <= limits + 1e-3)
            assert inside[batch.targets.valid].all()
        assert seen == len(expected)


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("raccoon", ("raccoon",), (160, 175, 40, 42)),
        ("bccd", ("Platelets", "RBC", "WBC"), (205, 2804, 87, 1137)),  # one box without area in each
        ("voc2012_mini", VOC_WITHOUT_BIRD, (50, 135, 50, 132)),  # 6 birds in validation alone
        ("fridge_voc", ("can", "carton", "milk_bottle", "water_bottle"), (5, 10, 1, 2)),
        ("voc2012_seg_icevision", ("chair", "dog", "person"), (1, 1, 1, 2)),
    ],
)
def test_voc(shared_data: Path, name: str, classes: tuple[str, ...], expected: tuple[int, ...]) -> None:
    data = VOC(str(shared_data / name), transforms=SMALL, num_workers=0, batch_size=8)
    assert data.classes == classes
    assert counts(data) == expected
    if name != "bccd":  # many, and all of one size
        check_samples(data)


def test_voc_by_explicit_splits(shared_data: Path) -> None:
    data = VOC(str(shared_data / "bccd"), split={"train": "trainval", "val": "test"})
    images, objects, val_images, val_objects = counts(data)
    assert (images, val_images) == (292, 72)
    assert objects + val_objects == 4888 - 2
    total = np.bincount(data.train_annotations.labels) + np.bincount(data.val_annotations.labels)
    assert dict(zip(data.classes, total.tolist(), strict=True)) == {"Platelets": 361, "RBC": 4153, "WBC": 372}


def test_voc_difficult(shared_data: Path) -> None:
    data = VOC(str(shared_data / "voc2012_mini"))
    assert data.train_annotations.difficult.sum() + data.val_annotations.difficult.sum() == 38


def test_tiny_coco(shared_data: Path) -> None:
    data = COCO(str(shared_data / "tiny_coco"), transforms=SMALL, num_workers=0, batch_size=8)
    train, val = data.train_annotations, data.val_annotations
    assert counts(data) == (50, 470, 50, 382)
    assert (data.num_classes, data.classes[0], train.category_ids[-1]) == (80, "person", 90)
    assert (len(np.unique(train.labels)), len(np.unique(val.labels))) == (49, 48)
    assert (train.crowd.sum(), val.crowd.sum()) == (5, 5)
    assert ((np.diff(train.offsets) == 0).sum(), (np.diff(val.offsets) == 0).sum()) == (1, 2)
    check_samples(data)


def test_nuts_coco_has_no_split(shared_data: Path) -> None:
    data = COCO(str(shared_data / "nuts_coco"), transforms=SMALL, num_workers=0, batch_size=8)
    images, objects, val_images, val_objects = counts(data)
    assert (images, val_images, objects + val_objects) == (14, 4, 165)
    total = np.bincount(data.train_annotations.labels) + np.bincount(data.val_annotations.labels)
    assert dict(zip(data.classes, total.tolist(), strict=True)) == {"date": 71, "fig": 41, "hazelnut": 53}
    check_samples(data)
