"""Proposals on their way from a file into batches."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.data import COCO, VOC, Albumentations, RandomHorizontalFlip, Resize, Shapes, collate
from detseg.data.loading.proposals import Writer, cache_file, make_header
from detseg.data.transforms.geometry import ImageSample
from detseg.data.transforms.transform import apply_transforms, preprocess, preprocessing_of
from detseg.errors import DataError
from detseg.structures import Sample
from tests.data import made

BOXES = np.array([[0, 6, 20, 30], [40, 2, 64, 48], [0, 0, 64, 48], [3.5, 4.25, 9, 47]], np.float32)
AUGMENT: dict[str, dict[str, Any]] = {"VerticalFlip": {"p": 0.5}, "Transpose": {"p": 0.5}, "Rotate": {"p": 0.3}}


def picture(boxes: np.ndarray, proposals: np.ndarray | None, masks: bool = False) -> ImageSample:
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    labels = np.arange(len(boxes), dtype=np.int64)
    return ImageSample(image, boxes, labels, np.full((len(boxes), 32, 32), 255, np.uint8) if masks else None, proposals)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.booleans(), st.booleans())
def test_they_move_as_boxes_do(seed: int, augmented: bool, masks: bool) -> None:
    transforms = [Resize([40, 90], 120, crop=0.5), RandomHorizontalFlip()]
    transforms += [Albumentations(AUGMENT)] if augmented else []
    found = apply_transforms(transforms, picture(BOXES, BOXES.copy(), masks), seed)
    assert found.proposals is not None
    assert found.proposals.dtype == np.float32
    alone = apply_transforms(transforms, picture(BOXES, BOXES.copy()), seed)
    assert np.allclose(found.proposals, alone.boxes, atol=1e-4)  # all boxes stay inside of a crop
    assert alone.proposals is not None
    assert np.array_equal(found.proposals, alone.proposals)  # a mask narrows the box of an object, no proposal
    without = apply_transforms(transforms, picture(BOXES, None, masks), seed)
    assert without.proposals is None
    assert np.array_equal(without.image, found.image)  # proposals change nothing for the rest
    assert np.array_equal(without.boxes, found.boxes)
    assert np.array_equal(without.labels, found.labels)
    evaluated = preprocess(picture(BOXES, BOXES.copy()), preprocessing_of(transforms))
    assert evaluated.proposals is not None
    assert np.allclose(evaluated.proposals, evaluated.boxes, atol=1e-4)


def test_what_a_crop_cuts_off_is_clipped_or_goes() -> None:
    boxes = np.array([[28, 20, 36, 28]], np.float32)
    proposals = np.array([[0, 0, 64, 48], [0, 0, 1, 1], [30, 22, 34, 26], [20, 47.5, 30, 48]], np.float32)
    crops = [Resize(48, 4800, crop=1)]
    dropped = 0
    for seed in range(30):
        found = apply_transforms(crops, picture(boxes, proposals), seed)
        assert found.proposals is not None
        height, width = found.image.shape[:2]
        assert found.proposals[0].tolist() == [0, 0, width, height]  # the first stays the first
        moved = found.boxes[0] + 2 * (found.boxes[0, 2] - found.boxes[0, 0]) / 8 * np.array([1, 1, -1, -1])
        assert sum(np.allclose(one, moved, atol=0.2) for one in found.proposals) == 1
        assert (found.proposals[:, 2:] > found.proposals[:, :2]).all()
        dropped += len(proposals) - len(found.proposals)
    assert dropped > 10


def test_augmentations_that_look_at_boxes_do_not_look_at_proposals() -> None:
    """A crop that holds all boxes would hold all of the image, if it were to hold all proposals."""
    steps = [Resize(48, 64), Albumentations({"RandomSizedBBoxSafeCrop": {"height": 48, "width": 64, "p": 1}})]
    boxes = np.array([[28, 20, 36, 28]], np.float32)
    proposals = np.array([[0, 0, 64, 48], [28, 20, 36, 28]], np.float32)
    found = [apply_transforms(steps, picture(boxes, proposals), seed) for seed in range(10)]
    assert max((one.boxes[:, 2] - one.boxes[:, 0]).max() for one in found) > 12
    for one in found:
        assert one.proposals is not None
        assert np.allclose(one.proposals, [[0, 0, 64, 48], one.boxes[0]], atol=1e-3)


def sample(proposals: int | None) -> Sample:
    boxes = None if proposals is None else torch.rand(proposals, 4)
    return Sample(
        torch.ones(3, 20, 30, dtype=torch.uint8),
        torch.rand(2, 4),
        torch.zeros(2, dtype=torch.int64),
        0,
        (9, 9),
        None,
        boxes,
    )


def test_a_batch_pads_them() -> None:
    samples = [sample(9), sample(0), sample(3)]
    proposals = collate(samples).proposals
    assert proposals is not None
    assert proposals.labels is None
    assert proposals.boxes.shape == (3, 16, 4)
    assert proposals.valid.sum(dim=1).tolist() == [9, 0, 3]
    for one, boxes, valid in zip(samples, proposals.boxes, proposals.valid, strict=True):
        assert one.proposals is not None
        assert torch.equal(boxes[valid], one.proposals)
    assert collate([sample(None)]).proposals is None
    empty = collate([]).proposals
    assert empty is not None
    assert empty.boxes.shape[0] == 0


def written(folder: Path, data: COCO) -> dict[str, list[np.ndarray]]:
    """Random proposals for both splits."""
    found: dict[str, list[np.ndarray]] = {}
    for split, images in (("train", data.train_annotations), ("val", data.val_annotations)):
        with Writer(cache_file(folder, split), make_header(images, "grid")) as writer:
            for row in range(len(images)):
                corners = np.random.default_rng(row).uniform(0, 30, (2500 if row else 3, 2))
                boxes = np.concatenate([corners, corners + 10], axis=1).astype(np.float32)
                writer.add(row, boxes, 0.0)
                found.setdefault(split, []).append(boxes)
    return found


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_both_splits_carry_them(tmp_path: Path, workers: int) -> None:
    for split, count in (("train", 4), ("val", 2)):
        made.simple_coco(tmp_path / f"{split}.json", tmp_path / split, count)
    transforms = [Resize(96, 128)]
    data = COCO(str(tmp_path), transforms=transforms, num_workers=workers, proposals=str(tmp_path / "proposals"))
    boxes = written(tmp_path / "proposals", data)
    for split, loader in (("train", data.train_dataloader()), ("val", data.val_dataloader())):
        rows = []
        for batch in loader:
            assert batch.proposals is not None
            for row, found, valid in zip(
                batch.image_index.tolist(), batch.proposals.boxes, batch.proposals.valid, strict=True
            ):
                assert np.allclose(found[valid], 2 * boxes[split][row][:2000])  # the papers' number
                rows.append(row)
        assert sorted(rows) == list(range(len(boxes[split])))


def test_missing_ones_stop_with_the_command(tmp_path: Path) -> None:
    root = tmp_path / "my data"
    made.simple_coco(root / "all.json", root / "images", 4)
    data = COCO(str(root), split={"val_fraction": 0.5}, proposals="some/where", num_workers=0, batch_size=1)
    line = ["detseg", "propose", "--data", "COCO", "--data.root", str(root), "--data.split", '{"val_fraction": 0.5}']
    for split, loader in (("train", data.train_dataloader), ("val", data.val_dataloader)):
        with pytest.raises(DataError, match=re.escape(f"some/where/{split}.sqlite: no such file")) as caught:
            loader()
        command = shlex.split(str(caught.value).partition("compute it: ")[2])
        assert command == [*line, "--split", split, "--out", "some/where", "--method", "selective_search"]


def test_the_other_data_sets_take_them_too(tmp_path: Path) -> None:
    made.voc(tmp_path / "voc", "a", made.box("fox", 2, 2, 30, 40))
    made.voc(tmp_path / "voc", "b", made.box("fox", 2, 2, 30, 40))
    for data in (
        VOC(str(tmp_path / "voc"), proposals=str(tmp_path)),
        Shapes(str(tmp_path / "shapes"), 2, 1, proposals=str(tmp_path)),
    ):
        with pytest.raises(DataError, match=f"propose --data {type(data).__name__} --data.root"):
            data.train_dataloader()
