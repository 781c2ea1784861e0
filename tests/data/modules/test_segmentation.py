"""Data modules of semantic segmentation: what they find, what their loaders give, and what they say is wrong."""

from __future__ import annotations

import json
import logging
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask
from pycocotools.coco import COCO as Reference

from detseg.configurable import from_config, to_config
from detseg.data import (
    RandomHorizontalFlip,
    RandomScaleCrop,
    SegmentationDataModule,
    ShapesSegmentation,
)
from detseg.data.annotations.images import read_image
from detseg.data.formats.coco.semantic import read_coco_semantic
from detseg.data.formats.voc.semantic import VocSemanticFormat
from detseg.data.modules.segmentation import SegmentationDataset
from detseg.data.modules.shapes_generator import CLASSES
from detseg.draw import save_labels
from detseg.errors import ConfigError, DataError
from detseg.inference.preprocessing import preprocess
from detseg.structures import IGNORE_INDEX, Batch
from tests.data import made
from tests.data.annotations.test_semantic import sbd
from tests.data.modules.test_detection import Recorder, rows, trainer

SMALL = [RandomScaleCrop((0.5, 2), 32), RandomHorizontalFlip()]


def labels(seed: int, height: int = 48, width: int = 64, classes: int = 3) -> np.ndarray:
    found = np.random.default_rng(seed).integers(0, classes, (height, width), dtype=np.uint8)
    found[0, :5] = IGNORE_INDEX
    return found


def put(path: Path, numbers: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_labels(numbers, path)
    return numbers


def write_folder(root: Path, train: int = 5, val: int = 3, sizes: tuple[tuple[int, int], ...] = ((48, 64),)) -> Path:
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            height, width = sizes[number % len(sizes)]
            made.image(root / "images" / split / f"{split}{number}.png", height, width, seed=number)
            put(root / "masks" / split / f"{split}{number}.png", labels(number, height, width))
    (root / "classes.txt").write_text("sky\nroad\ncar\n")
    return root


def write_voc(root: Path, ids: dict[str, list[str]]) -> Path:
    for split, stems in ids.items():
        file = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(stems))
        for stem in stems:
            made.image(root / "JPEGImages" / f"{stem}.jpg", seed=zlib.crc32(stem.encode()))
            put(root / "SegmentationClass" / f"{stem}.png", labels(ord(stem[0]), classes=21))
    return root


# What loaders give


def test_evaluation_gives_images_and_labels_as_they_are(tmp_path: Path) -> None:
    sizes = ((48, 64), (33, 44), (40, 60), (70, 20))
    data = SegmentationDataModule(
        str(write_folder(tmp_path, 1, 9, sizes)), transforms=SMALL, num_workers=0, batch_size=4
    )
    seen = []
    for batch in data.val_dataloader():
        assert isinstance(batch, Batch)
        assert batch.semantic.dtype == torch.int64
        assert batch.semantic.shape == (len(batch.image_index), *batch.images.shape[2:])
        assert all(length % 32 == 0 for length in batch.semantic.shape[1:])
        assert not batch.targets.valid.any()
        assert batch.image_sizes.tolist() == batch.original_sizes.tolist()
        for row, image, semantic, size in zip(
            batch.image_index, batch.images, batch.semantic, batch.image_sizes, strict=True
        ):
            row, (h, w) = int(row), size.tolist()
            seen.append(row)
            expected = labels(row, *sizes[row % 4])
            assert (h, w) == expected.shape
            assert np.array_equal(semantic[:h, :w].numpy(), expected)
            assert (semantic[h:] == IGNORE_INDEX).all()
            assert (semantic[:, w:] == IGNORE_INDEX).all()
            assert np.array_equal(image[:, :h, :w].permute(1, 2, 0).numpy(), read_image(data.path("val", row)))
            assert not image[:, h:].any()
            # No image is padded more than it would be alone.
            assert semantic.shape == tuple(-(-length // 32) * 32 for length in (h, w))
    assert sorted(seen) == list(range(9))


def test_all_splits_are_evaluated_together(tmp_path: Path) -> None:
    data = SegmentationDataModule(str(write_folder(tmp_path, 2, 3, ((48, 64), (33, 44)))), num_workers=0)
    data.evaluate_on("all")
    table = data.val_annotations
    assert (len(table), data.count_images(), table.sizes.tolist()[1]) == (5, 5, [33, 44])
    for row, seed in enumerate((0, 1, 0, 1, 2)):
        assert np.array_equal(table.labels(row), labels(seed, *table.sizes[row].tolist()))
        assert table.path(row).stem == table.source(row).stem == ("train" if row < 2 else "val") + str(seed)
    flipped = table.relabel(("car", "road", "sky")).subset([4, 0])
    assert np.array_equal(flipped.labels(0)[flipped.labels(0) < 3], 2 - labels(2)[labels(2) < 3])


@pytest.mark.parametrize(("crop", "edge"), [(32, 32), (40, 64), (200, 224)])
def test_training_gives_crops_of_one_size(tmp_path: Path, crop: int, edge: int) -> None:
    transforms = [RandomScaleCrop((0.5, 2), crop), RandomHorizontalFlip()]
    data = SegmentationDataModule(str(write_folder(tmp_path)), transforms=transforms, num_workers=0, batch_size=2)
    batches = list(data.train_dataloader())
    assert sorted(row for batch in batches for row in batch.image_index.tolist()) == list(range(5))
    for batch in batches:
        assert batch.images.shape[2:] == batch.semantic.shape[1:] == (edge, edge)
        assert batch.image_sizes.max() <= crop
        for semantic, (h, w) in zip(batch.semantic, batch.image_sizes.tolist(), strict=True):
            assert (semantic[h:] == IGNORE_INDEX).all()
            assert (semantic[:, w:] == IGNORE_INDEX).all()
            assert set(semantic[:h, :w].unique().tolist()) <= {0, 1, 2, IGNORE_INDEX}


def test_training_on_whole_images_groups_their_shapes(tmp_path: Path) -> None:
    data = SegmentationDataModule(
        str(write_folder(tmp_path, 8, 1, ((48, 64), (64, 30)))),
        transforms=[RandomScaleCrop((1, 1), None), RandomHorizontalFlip()],
        num_workers=0,
        batch_size=4,
    )
    assert {tuple(batch.semantic.shape) for batch in data.train_dataloader()} == {(4, 64, 64), (4, 64, 32)}


def test_workers_and_seeds_change_nothing(tmp_path: Path) -> None:
    root = str(write_folder(tmp_path))
    for alone, shared in zip(
        *(SegmentationDataModule(root, transforms=SMALL, num_workers=workers).train_dataloader() for workers in (0, 2)),
        strict=True,
    ):
        assert torch.equal(alone.images, shared.images)
        assert torch.equal(alone.semantic, shared.semantic)
    dataset = SegmentationDataset(SegmentationDataModule(root).train_annotations, SMALL, training=True)
    assert torch.equal(dataset[2, 5].semantic, dataset[2, 5].semantic)
    assert not torch.equal(dataset[2, 5].image, dataset[2, 6].image)


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_and_validates_on_it(tmp_path: Path) -> None:
    data = SegmentationDataModule(str(write_folder(tmp_path, 9)), transforms=SMALL, num_workers=0, batch_size=2)
    module, overfitted = Recorder(), Recorder()
    trainer(max_epochs=2, enable_checkpointing=False).fit(module, data)
    epochs = [[row for epoch, *rows in module.trained for row in rows if epoch == number] for number in range(2)]
    assert all(sorted(epoch) == list(range(9)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    trainer(max_epochs=2, overfit_batches=2, enable_checkpointing=False).fit(overfitted, data)
    assert overfitted.trained == [[epoch, *rows] for epoch in range(2) for rows in ([0, 1], [2, 3])]


def test_a_rank_without_images_gets_an_empty_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = SegmentationDataModule(str(write_folder(tmp_path, 2, 1)), num_workers=0)
    monkeypatch.setattr("detseg.data.modules.base._rank", lambda: (1, 2))
    (batch,) = data.val_dataloader()
    assert batch.semantic.shape == (0, *batch.images.shape[2:])


def test_prediction_sees_what_evaluation_sees(tmp_path: Path) -> None:
    data = SegmentationDataModule(str(write_folder(tmp_path)), num_workers=0)
    image = read_image(data.val_annotations.path(0))
    assert image.shape == (48, 64, 3)
    assert np.array_equal(preprocess(image, data.preprocessing).image.permute(1, 2, 0), image)
    assert data.pad_shapes == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_stops_with_its_path_alone(tmp_path: Path, workers: int) -> None:
    write_folder(tmp_path)
    put(tmp_path / "masks/val/val1.png", labels(1, classes=5))
    with pytest.raises(DataError) as caught:
        rows(SegmentationDataModule(str(tmp_path), num_workers=workers).val_dataloader())
    assert str(caught.value).startswith(f"{tmp_path}/masks/val/val1.png: the pixel at x ")
    assert "Traceback" not in str(caught.value)


def test_labels_of_another_size_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    put(tmp_path / "masks/val/val1.png", labels(1, 40, 64))
    with pytest.raises(DataError) as caught:
        rows(SegmentationDataModule(str(tmp_path), num_workers=0).val_dataloader())
    image, mask = (tmp_path / name / "val" / "val1.png" for name in ("images", "masks"))
    assert str(caught.value).startswith(f"{image}: the image is 64x48 but {mask} says 64x40 (width x height)")


def test_an_annotation_file_of_another_size_is_named(tmp_path: Path) -> None:
    write_coco(tmp_path, objects())
    made.image(tmp_path / "train" / "7.png", 40, 60)
    data = SegmentationDataModule(
        str(tmp_path), "COCO", split={"train": "train.json", "val": "train.json"}, num_workers=0
    )
    with pytest.raises(DataError, match=rf"7\.png: the image is 60x40 but {tmp_path}/train\.json says 64x48"):
        rows(data.val_dataloader())


@pytest.mark.parametrize("values", [{"batch_size": 0}, {"num_workers": -1}])
def test_values_that_make_no_sense_are_errors(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        SegmentationDataModule("x", **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["auto", "VOC", "COCO", "CamVid", "Cityscapes", "ImageMasks"])
def test_nothing_is_read_before_it_is_needed(format: str) -> None:
    data = SegmentationDataModule("nowhere", format, transforms=[RandomScaleCrop(size=99)], batch_size=3)  # type: ignore[call-arg]
    again = from_config(json.loads(json.dumps(to_config(data))))
    assert to_config(again) == to_config(data)
    assert again.transforms[0].crop_size == 99
    with pytest.raises(DataError, match="nowhere: no such folder"):
        _ = again.classes


# Classes


def test_a_model_brings_its_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = SegmentationDataModule(str(write_folder(tmp_path)), num_workers=0)
    assert (data.classes, data.num_classes, data.category_ids) == (("sky", "road", "car"), 3, (0, 1, 2))
    before = data.val_annotations.labels(0)
    with caplog.at_level(logging.WARNING):
        data.use_classes(["pole", "car", "sky"])
    assert "left out the pixels of other classes: road" in caplog.text
    table = np.full(256, IGNORE_INDEX)
    table[[0, 2]] = 2, 1
    assert np.array_equal(data.val_annotations.labels(0), table[before])
    data.use_classes(["road", "sky", "car"])  # what was left out is there again
    table[:3] = 1, 0, 2
    assert np.array_equal(data.val_annotations.labels(0), table[before])
    with pytest.raises(
        DataError, match=r"none of its classes \(sky, road, car\) is among the classes to predict \(emu\)"
    ):
        data.use_classes(["emu"])


# Plain folders


def test_a_folder_without_splits_is_split(tmp_path: Path) -> None:
    for number in range(10):
        made.image(tmp_path / "images" / f"{number}.jpg", seed=number)
        put(tmp_path / "masks" / f"{number}.png", labels(number))
    (tmp_path / "classes.json").write_text('{"classes": ["sky", "road"], "ignore_index": 2}')
    data = SegmentationDataModule(str(tmp_path))
    train, val = data.train_annotations, data.val_annotations
    assert (len(train), len(val)) == (8, 2)
    assert not set(train.files) & set(val.files)
    row = int(val.files[1].removesuffix(".jpg"))
    assert np.array_equal(val.labels(1), np.where(labels(row) == 2, IGNORE_INDEX, labels(row)))
    assert val.path(1) == tmp_path / "images" / f"{row}.jpg"


@pytest.mark.parametrize(("kind", "what"), [("images", "image"), ("masks", "mask")])
def test_what_has_no_partner_is_named(tmp_path: Path, kind: str, what: str) -> None:
    write_folder(tmp_path)
    (tmp_path / kind / "train" / "train1.png").unlink()
    with pytest.raises(DataError, match=rf"{kind}/train/train1: the {what} of this name is missing; add or take out"):
        _ = SegmentationDataModule(str(tmp_path)).classes
    (tmp_path / kind / "train" / "train3.png").unlink()
    with pytest.raises(DataError, match=rf"{kind}/train/train1: .*, and 1 more"):
        _ = SegmentationDataModule(str(tmp_path)).classes


def test_what_a_folder_lacks_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, 2, 0)
    with pytest.raises(DataError, match=r"it has no split val, but train"):
        _ = SegmentationDataModule(str(tmp_path)).val_annotations
    (tmp_path / "images/val").mkdir()
    (tmp_path / "masks/val").mkdir()
    with pytest.raises(DataError, match="the val split has no images"):
        _ = SegmentationDataModule(str(tmp_path)).val_annotations
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"it has no classes\.txt"):
        _ = SegmentationDataModule(str(tmp_path)).classes


# VOC and SBD


def test_voc_reads_its_lists(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "VOCdevkit" / "VOC2012", {"train": ["a", "b"], "val": ["c"], "trainval": ["a", "c"]})
    data = SegmentationDataModule(str(tmp_path), "VOC")
    assert data.num_classes == 21
    assert (data.classes[0], data.classes[15], data.classes[20]) == ("background", "person", "tvmonitor")
    assert [data.train_annotations.path(row) for row in (0, 1)] == [root / f"JPEGImages/{stem}.jpg" for stem in "ab"]
    assert np.array_equal(data.train_annotations.labels(1), labels(ord("b"), classes=21))
    assert len(data.val_annotations) == 1
    assert (
        len(SegmentationDataModule(str(tmp_path), "VOC", split={"train": "trainval", "val": "val"}).train_annotations)
        == 2
    )
    (root / "ImageSets/Segmentation/val.txt").write_text("c\n../../../secret\n")
    with pytest.raises(DataError, match=r"no file with the image of \.\./\.\./\.\./secret"):
        _ = SegmentationDataModule(str(tmp_path), "VOC").val_annotations


def test_voc_without_lists_and_with_names_of_its_own(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"train": list("abcde")})
    (root / "ImageSets/Segmentation/train.txt").unlink()
    (root / "class_names.txt").write_text("\n".join(f"class {label}" for label in range(21)))
    data = SegmentationDataModule(str(root), "VOC")
    assert (len(data.train_annotations), len(data.val_annotations)) == (4, 1)
    assert data.classes[1] == "class 1"
    with pytest.raises(DataError, match=r"more: cannot read|nothing\.txt: cannot read this list"):
        _ = SegmentationDataModule(str(root), "VOC", split={"train": "nothing", "val": "nothing"}).classes


def test_sbd_adds_what_is_not_for_validation(tmp_path: Path) -> None:
    """a and b are VOC's for training, c and d for validation; SBD has b, c, e, f."""
    root = write_voc(tmp_path / "VOC2012", {"train": ["a", "b"], "val": ["c", "d"]})
    extra = tmp_path / "benchmark" / "dataset"
    for stem in "bcef":
        sbd(extra / "cls" / f"{stem}.mat", np.where(labels(1) == IGNORE_INDEX, 0, labels(1)))
        made.image(extra / "img" / f"{stem}.jpg")
    (extra / "train.txt").write_text("b\nc\n")
    (extra / "val.txt").write_text("e\nf\n")
    data = SegmentationDataModule(str(root), VocSemanticFormat(sbd="../benchmark"))
    train = data.train_annotations
    assert [train.path(row).stem for row in range(len(train))] == ["a", "b", "e", "f"]
    assert train.path(1).parent == root / "JPEGImages"
    assert np.array_equal(train.labels(1), labels(ord("b"), classes=21))  # VOC's, with void
    assert train.path(2) == root / "../benchmark/dataset/img/e.jpg"
    assert np.array_equal(train.labels(2), np.where(labels(1) == IGNORE_INDEX, 0, labels(1)))
    assert [data.path("val", row).stem for row in (0, 1)] == ["c", "d"]
    assert len(list(data.train_dataloader())) == 1
    with pytest.raises(DataError, match="nowhere: it has no folder cls with SBD's labels"):
        _ = SegmentationDataModule(str(root), VocSemanticFormat(sbd="nowhere")).train_annotations


def test_sbd_as_images(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"train": ["a"], "val": ["c"]})
    made.image(root / "JPEGImages" / "e.jpg")
    put(root / "SegmentationClassAug" / "e.png", labels(7))
    put(root / "SegmentationClassAug" / "a.png", labels(8))
    (root / "ImageSets/Segmentation/trainaug.txt").write_text("a\ne\n")
    data = SegmentationDataModule(str(root), "VOC", split={"train": "trainaug"})
    assert np.array_equal(data.train_annotations.labels(0), labels(ord("a"), classes=21))
    assert np.array_equal(data.train_annotations.labels(1), labels(7))


# CamVid and shapes


def test_camvid(tmp_path: Path) -> None:
    for split, stems in (("train", "abc"), ("val", "d"), ("test", "ef")):
        for stem in stems:
            made.image(tmp_path / split / f"{stem}.png")
            put(tmp_path / f"{split}annot" / f"{stem}.png", np.where(labels(3, classes=12) == 255, 11, labels(3)))
    (tmp_path / "train.txt").write_text("/SegNet/CamVid/train/a.png /SegNet/CamVid/trainannot/a.png\nc\n")
    data = SegmentationDataModule(str(tmp_path), "CamVid")
    assert (data.num_classes, data.classes[10]) == (11, "Bicyclist")
    assert data.train_annotations.files.tolist() == ["a.png", "c.png"]
    assert np.array_equal(data.train_annotations.labels(0), labels(3))  # 11 is void
    assert len(SegmentationDataModule(str(tmp_path), "CamVid", split={"val": "test"}).val_annotations) == 2
    (tmp_path / "train.txt").write_text("a\nmissing\n")
    with pytest.raises(DataError, match="train/missing: the image of this name is missing"):
        _ = SegmentationDataModule(str(tmp_path), "CamVid").classes


def test_shapes(tmp_path: Path) -> None:
    """The labels are those that were drawn, but for the outlines."""
    from detseg.data.modules.shapes_generator import draw

    data = ShapesSegmentation(str(tmp_path / "shapes"), train=6, val=2, num_workers=0)
    assert data.classes == ("background", *CLASSES)
    assert (len(data.train_annotations), len(data.val_annotations)) == (6, 2)
    for row in range(6):
        found, expected = data.train_annotations.labels(row), 0
        for shape in draw((0, row + 1))[1]:
            expected = np.where(shape.mask, shape.label + 1, expected)
        assert (found == IGNORE_INDEX).mean() < 0.3
        assert np.array_equal(found, np.where(found == IGNORE_INDEX, IGNORE_INDEX, expected))
    assert {tuple(batch.semantic.shape[1:]) for batch in data.train_dataloader()} == {(128, 128)}
    again = from_config(json.loads(json.dumps(to_config(data))))
    assert again.settings == data.settings


# COCO


def polygon(x: int, y: int, side: int) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x + 0.5, y + side - 0.5]]


def objects() -> list[dict[str, Any]]:
    square = np.zeros((48, 64), dtype=np.uint8, order="F")
    square[3:20, 1:9] = 1
    compressed = {"size": [48, 64], "counts": mask.encode(square)["counts"].decode()}
    runs = {"size": [48, 64], "counts": [100, 20, 28, 20, 48 * 64 - 168]}
    return [
        {"id": 1, "image_id": 7, "category_id": 3, "segmentation": polygon(4, 5, 20)},
        {"id": 2, "image_id": 7, "category_id": 9, "segmentation": polygon(15, 15, 25)},  # covers a part of the first
        {"id": 3, "image_id": 7, "category_id": 3, "segmentation": polygon(40, 4, 8) + polygon(50, 4, 8)},
        {"id": 4, "image_id": 2, "category_id": 9, "segmentation": runs, "iscrowd": 1},
        {"id": 5, "image_id": 2, "category_id": 3, "segmentation": compressed},
        {"id": 6, "image_id": 2, "category_id": 3, "segmentation": []},
        {"id": 7, "image_id": 99, "category_id": 3, "segmentation": polygon(4, 5, 20)},
    ]


def write_coco(root: Path, entries: list[dict[str, Any]], **more: Any) -> Path:
    images = [{"id": number, "file_name": f"{number}.png", "height": 48, "width": 64} for number in (7, 2, 4)]
    for image in images:
        made.image(root / "train" / image["file_name"], seed=zlib.crc32(image["file_name"].encode()))
    return made.coco(root / "train.json", images, entries, {9: "dog", 3: "cat", 5: "emu"})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pycocotools
def test_objects_are_painted_as_torchvision_does(tmp_path: Path) -> None:
    """The rule of its reference training, over masks as pycocotools decodes them."""
    file = write_coco(tmp_path, objects())
    reference = Reference(str(file))
    found = read_coco_semantic(file, tmp_path / "train")
    assert found.classes == ("background", "cat", "emu", "dog")
    assert found.category_ids == (0, 3, 5, 9)
    assert found.files.tolist() == ["2.png", "4.png", "7.png"]
    for row, number in enumerate((2, 4, 7)):
        masks = [
            reference.annToMask(entry) * {3: 1, 9: 3}[entry["category_id"]]
            for entry in reference.imgToAnns[number]
            if entry["segmentation"]
        ]
        stack = np.stack([*masks, np.zeros((48, 64), np.uint8)])
        expected = np.where((stack > 0).sum(axis=0) > 1, IGNORE_INDEX, stack.max(axis=0))
        assert np.array_equal(found.labels(row), expected)
        assert found.labels(row).dtype == np.uint8
    assert {*np.unique(found.labels(2))} == {0, 1, 3, IGNORE_INDEX}
    assert {*np.unique(found.labels(1))} == {0}


def test_some_of_the_categories(tmp_path: Path) -> None:
    file = write_coco(tmp_path, objects())
    whole, some = read_coco_semantic(file, tmp_path), read_coco_semantic(file, tmp_path, ["dog"])
    assert some.classes == ("background", "dog")
    assert some.category_ids == (0, 9)
    before, after = whole.labels(2), some.labels(2)
    assert (after[before == 3] == 1).all()
    assert (after[before == 1] == 0).all()  # another category, and so background
    with pytest.raises(DataError, match=r"no category bird; its categories are cat, emu, dog"):
        read_coco_semantic(file, tmp_path, ["bird"])


def test_coco_finds_its_files(tmp_path: Path) -> None:
    write_coco(tmp_path, objects())
    data = SegmentationDataModule(str(tmp_path), "COCO", split={"val_fraction": 0.4}, num_workers=0)
    assert (len(data.train_annotations), len(data.val_annotations)) == (2, 1)
    assert sum(len(batch.image_index) for batch in data.train_dataloader()) == 2
    with pytest.raises(DataError, match=r"give `split\.train='FILE'`"):
        _ = SegmentationDataModule(str(tmp_path / "train"), "COCO", split={"val": "../train.json"}).classes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": [["a"] * 6]}, "annotation 3 has a broken segmentation"),
        ({"segmentation": {"size": [48, 64], "counts": "fffffff"}}, "annotation 3 has a broken segmentation"),
        ({"segmentation": {"size": [48, 64], "counts": [5, 99999]}}, "annotation 3 has a broken segmentation"),
        (
            {"segmentation": {"size": [64, 48], "counts": [5]}},
            r"annotation 3 has a broken .* \[64, 48\], but its image is \[48, 64\]",
        ),
        ({"segmentation": 3}, "annotation 3 has a broken segmentation"),
        ({"segmentation": None}, "annotation 3 has no segmentation"),
        ({"category_id": 6}, "annotation 3 has category_id 6, which is not in the categories"),
        ({"category_id": "cat"}, r"\(id 3\) has category_id = 'cat'"),
        ({"image_id": None}, r"\(id 3\) has image_id = None"),
    ],
)
def test_a_broken_object_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    entries = objects()
    entries[2] |= change
    file = write_coco(tmp_path, entries)
    with pytest.raises(DataError, match=rf"train\.json: .*{message}"):
        read_coco_semantic(file, tmp_path / "train").labels(2)


def test_a_part_of_a_polygon_that_covers_nothing_changes_nothing(tmp_path: Path) -> None:
    """A point and a line, which some programs leave in their files."""
    before = read_coco_semantic(write_coco(tmp_path, objects()), tmp_path).labels(2)
    entries = objects()
    entries[0]["segmentation"] += [[3, 3], [10, 10, 60, 40]]
    assert np.array_equal(read_coco_semantic(write_coco(tmp_path, entries), tmp_path).labels(2), before)


def test_annotations_of_images_that_are_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_coco_semantic(write_coco(tmp_path, objects()), tmp_path)
    assert "train.json: left out 1 annotations of images it does not list" in caplog.text
    entries = [{**entry, "image_id": str(entry["image_id"])} for entry in objects()]
    with pytest.raises(DataError, match=r"no annotation is of an image that it lists: .* such as '7', the images 2"):
        read_coco_semantic(write_coco(tmp_path, entries), tmp_path)


@pytest.mark.parametrize("section", ["images", "categories"])
def test_ids_that_are_there_twice(tmp_path: Path, section: str) -> None:
    file = write_coco(tmp_path, objects())
    content = json.loads(file.read_text())
    content[section].append(content[section][0])
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"train\.json: more than one entry of {section} has the id \d"):
        read_coco_semantic(file, tmp_path)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "a\\..\\..\\secret.png", None])
def test_no_file_name_leads_out_of_the_folder(tmp_path: Path, name: str | None) -> None:
    images = [{"id": 1, "file_name": name, "height": 48, "width": 64}]
    file = made.coco(tmp_path / "train.json", images, [], {1: "cat"})
    with pytest.raises(DataError, match=r"train\.json: .*file_name"):
        read_coco_semantic(file, tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"images": [], "annotations": {}, "categories": []}'])
def test_a_broken_annotation_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(DataError, match=r"train\.json: (broken JSON|not a COCO annotation file)"):
        read_coco_semantic(tmp_path / "train.json", tmp_path)


def write_panoptic(root: Path) -> tuple[Path, np.ndarray]:
    """Four segments, of which one has an id above 65536 and one is a crowd."""
    ids = np.zeros((48, 64), dtype=np.int64)
    ids[:20], ids[20:40, :30], ids[20:40, 30:], ids[40:, 40:] = 3, 70000, 257, 9
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
    (root / "panoptic_train").mkdir(parents=True)
    cv2.imwrite(str(root / "panoptic_train" / "1.png"), colours[..., ::-1])
    made.image(root / "train" / "1.jpg")
    segments = [(70000, 5), (3, 2), (257, 5), (9, 200)]
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 48, "width": 64}],
        "annotations": [
            {
                "image_id": 1,
                "file_name": "1.png",
                "segments_info": [{"id": a, "category_id": b, "iscrowd": int(a == 257)} for a, b in segments],
            }
        ],
        "categories": [{"id": number, "name": f"class {number}", "isthing": 1} for number in (2, 5, 200)],
    }
    file = root / "panoptic_train.json"
    file.write_text(json.dumps(content))
    expected = np.full((48, 64), IGNORE_INDEX)
    for number, category in segments:
        expected[ids == number] = (2, 5, 200).index(category)
    return file, expected


def test_panoptic_segments(tmp_path: Path) -> None:
    file, expected = write_panoptic(tmp_path)
    found = read_coco_semantic(file, tmp_path / "train")
    assert found.classes == ("class 2", "class 5", "class 200")
    assert found.category_ids == (2, 5, 200)
    assert np.array_equal(found.labels(0), expected)
    assert found.sizes.tolist() == [[48, 64]]
    some = read_coco_semantic(file, tmp_path / "train", ["class 200", "class 2"])
    assert np.array_equal(some.labels(0), np.array([1, IGNORE_INDEX, 0, *[IGNORE_INDEX] * 253])[expected])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segments_info": []}, r"1\.png: it shows a segment 3, which its annotation does not list"),
        ({"segments_info": None}, r"json: each image must have one annotation .*; image 1 has one without"),
        ({"segments_info": [{"id": 3}]}, r"json: an entry of annotations \(id 3\) has category_id = None"),
        ({"segments_info": [3]}, r"json: an entry of segments_info of image 1 is 3, but must be an object"),
        ({"segments_info": [{"category_id": 2}]}, r"json: an entry of segments_info of image 1 .* has id = None"),
        ({"segments_info": [{"id": "3"}]}, r"json: an entry of segments_info of image 1 .* has id = '3'"),
        ({"segments_info": [{"id": True}]}, r"json: an entry of segments_info of image 1 .* has id = True"),
        (
            {"segments_info": [{"id": 3, "category_id": 2}] * 2},
            r"json: more than one entry of segments_info of image 1 has the id 3",
        ),
        (
            {"segments_info": [{"id": 0, "category_id": 2}]},
            r"json: image 1 has a segment 0; .* 1 to 16777215, and 0 is",
        ),
        ({"segments_info": [{"id": 2**24, "category_id": 2}]}, r"json: image 1 has a segment 16777216;"),
        ({"segments_info": [{"id": 2**70, "category_id": 2}]}, r"json: image 1 has a segment 1180"),
        ({"segments_info": [{"id": -1, "category_id": 2}]}, r"json: image 1 has a segment -1;"),
        ({"segments_info": [{"id": 3, "category_id": 7}]}, r"json: annotation 1\.png has category_id 7, which is not"),
        ({"image_id": 8}, r"json: no annotation is of an image that it lists: .* such as 8, the images 1;"),
        ({"image_id": None}, r"json: an entry of annotations \(id None\) has image_id = None"),
        ({"file_name": 5}, r"json: an entry of annotations \(id 1\) has file_name = 5"),
        ({"file_name": "2.png"}, r"2\.png: cannot read this image"),
        ({"file_name": "../2.png"}, r"leads out of the folder"),
    ],
)
def test_broken_panoptic_segments(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file, _ = write_panoptic(tmp_path)
    content = json.loads(file.read_text())
    content["annotations"][0] |= change
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_coco_semantic(file, tmp_path / "train").labels(0)


@pytest.mark.parametrize(("times", "have"), [(0, "0 annotations"), (2, "2 annotations")])
def test_each_image_has_one_annotation_of_its_segments(tmp_path: Path, times: int, have: str) -> None:
    file, _ = write_panoptic(tmp_path)
    content = json.loads(file.read_text())
    content["images"].append({"id": 5, "file_name": "5.jpg", "height": 48, "width": 64})
    content["annotations"] += [{**content["annotations"][0], "image_id": 5}] * times
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"json: each image must have one .*; image 5 has {have}"):
        read_coco_semantic(file, tmp_path / "train")


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "an empty file"), (b"nothing", "not an image"), (None, "cannot read")]
)
def test_segments_that_cannot_be_read(tmp_path: Path, content: bytes | None, said: str) -> None:
    file, _ = write_panoptic(tmp_path)
    image = tmp_path / "panoptic_train" / "1.png"
    image.unlink()
    if content is not None:
        image.write_bytes(content)
    with pytest.raises(DataError, match=rf"panoptic_train/1\.png: .*{said}"):
        read_coco_semantic(file, tmp_path / "train").labels(0)


def test_segments_of_another_size(tmp_path: Path) -> None:
    file, _ = write_panoptic(tmp_path)
    made.image(tmp_path / "panoptic_train" / "1.png", 40, 64)
    with pytest.raises(DataError, match=r"1\.png: must show the segments of an image of 64x48, but is 64x40"):
        read_coco_semantic(file, tmp_path / "train").labels(0)


# Real photographs


def test_real_camvid(shared_data: Path) -> None:
    """Counts of images, and shares of the pixels that its description gives (per cent)."""
    data = SegmentationDataModule(str(shared_data / "camvid"), "CamVid", num_workers=0)
    assert (len(data.train_annotations), len(data.val_annotations)) == (367, 101)
    assert (
        len(SegmentationDataModule(str(shared_data / "camvid"), "CamVid", split={"val": "test"}).val_annotations) == 233
    )
    counts = data.val_annotations.counts().sum(axis=0)
    total = data.val_annotations.sizes.prod(axis=1).sum()
    assert 100 * counts[0] / total == pytest.approx(9, abs=0.5)
    assert 100 * counts[10] / total == pytest.approx(2.2, abs=0.1)
    assert 100 * (1 - counts.sum() / total) == pytest.approx(1.7, abs=0.1)
    batch = next(iter(data.val_dataloader()))
    assert batch.semantic.shape == (4, 384, 480)
    assert (batch.semantic[:, 360:] == IGNORE_INDEX).all()


def test_real_voc(shared_data: Path) -> None:
    data = SegmentationDataModule(str(shared_data / "voc2011_seg_mini"), "VOC", num_workers=0)
    assert (len(data.train_annotations), len(data.val_annotations)) == (2, 1)
    assert (data.classes[0], data.classes[15]) == ("_background_", "person")
    assert sum(len(batch.image_index) for batch in data.train_dataloader()) == 2
    other = SegmentationDataModule(str(shared_data / "voc2012_seg_icevision"), "VOC")
    assert other.train_annotations.files[0].endswith("2007_000063.jpg")
    shown = other.train_annotations.counts()[0].nonzero()[0]
    assert [other.classes[label] for label in shown] == ["background", "chair", "dog"]


def test_real_panoptic_and_instances(shared_data: Path) -> None:
    """The index images beside them hold category ids, 0 where there is no segment."""
    root = shared_data / "coco128_train"
    panoptic = read_coco_semantic(root / "panoptic/panoptic_train2017.json", root / "images/train2017")
    numbers = np.append(panoptic.category_ids, [0] * (256 - len(panoptic.category_ids)))
    for row in range(0, len(panoptic), 10):
        stem = Path(str(panoptic.files[row])).stem
        truth = cv2.imread(str(root / "semantic_masks/train2017" / f"{stem}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(numbers[panoptic.labels(row)], truth)
    instances = read_coco_semantic(root / "instances_rle_train2017.json", root / "images/train2017")
    assert (len(instances), len(instances.classes)) == (100, 81)
    things = dict(zip(panoptic.classes, range(200), strict=False))
    for row in range(0, 100, 10):
        label, other = instances.labels(row), panoptic.labels(row)
        for thing in np.setdiff1d(label, [0, IGNORE_INDEX]):
            assert (other[label == thing] == things[instances.classes[thing]]).all()


def test_what_a_folder_is_is_found_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_voc(tmp_path / "voc", {"train": ["a"], "val": ["b"]})
    write_coco(tmp_path / "coco", objects())
    for split in ("train", "val"):
        made.image(tmp_path / "camvid" / split / "a.png")
        put(tmp_path / "camvid" / f"{split}annot" / "a.png", labels(0))
        (tmp_path / "camvid" / f"{split}.txt").write_text("a\n")
        stem = f"{split}/jena/jena_000001_000019"
        made.image(tmp_path / "cityscapes" / "leftImg8bit" / f"{stem}_leftImg8bit.png")
        put(tmp_path / "cityscapes" / "gtFine" / f"{stem}_gtFine_labelIds.png", np.full((48, 64), 7, np.uint8))
    for name, kind, classes in (
        ("voc", "VOC", 21),
        ("coco", "COCO", 4),
        ("camvid", "CamVid", 11),
        ("cityscapes", "Cityscapes", 19),
    ):
        with caplog.at_level(logging.INFO):
            data = SegmentationDataModule(str(tmp_path / name))
            assert data.num_classes == classes, name
        assert f"{tmp_path / name}: taken for a data set in the format {kind}" in caplog.text
