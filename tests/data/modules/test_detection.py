from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from detseg.configurable import from_config, to_config
from detseg.data import COCO, VOC, Albumentations, RandomHorizontalFlip, Resize
from detseg.data.annotations.images import read_image
from detseg.data.formats.coco.detection import CocoFormat
from detseg.data.modules.base import Loader
from detseg.data.modules.detection import DetectionDataset
from detseg.data.splits import split_indices
from detseg.errors import ConfigError, DataError, DetsegError
from detseg.inference.preprocessing import preprocess
from detseg.preprocessing import ResizeConfig
from detseg.structures import Batch
from tests.data import made
from tests.ranks import on_two_ranks

SMALL = [Resize(48, 64), RandomHorizontalFlip()]


def whole_coco(root: Path, train: int = 5, val: int = 3) -> Path:
    made.simple_coco(root / "annotations/instances_train2017.json", root / "train2017", train)
    made.simple_coco(root / "annotations/instances_val2017.json", root / "val2017", val, {2: "dog", 1: "cat", 7: "elk"})
    return root


def rows(loader: Any) -> list[int]:
    return [row for batch in loader for row in batch.image_index.tolist()]


def test_coco_needs_a_root_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        data = COCO(str(whole_coco(tmp_path)), transforms=SMALL, num_workers=0)
        assert (data.classes, data.num_classes) == (("cat", "dog"), 2)
        assert data.val_annotations.classes == data.classes
        assert data.num_classes == 2
    assert data.train_annotations is data.train_annotations
    assert sorted(rows(data.train_dataloader())) == list(range(5))
    assert rows(data.val_dataloader()) == [0, 1, 2]
    assert f"train: {tmp_path}/train2017: 5 images (0 without objects), 5 objects, 2 classes" in caplog.text
    assert caplog.text.count("val: ") == 1


def test_explicit_places_override_what_is_found(tmp_path: Path) -> None:
    whole_coco(tmp_path / "a")
    other = made.simple_coco(tmp_path / "b" / "own.json", tmp_path / "c", 4, {1: "fox"})
    format = CocoFormat(images={"train": str(tmp_path / "c"), "val": "../c"})
    data = COCO(str(tmp_path / "a"), format, split={"train": str(other), "val": "../b/own.json"})
    assert data.classes == ("fox",)
    assert data.train_annotations.path(2) == tmp_path / "c" / "2.png"
    assert len(data.val_annotations) == 4
    assert data.val_annotations.path(0).is_file()


def test_boxes_beyond_the_image_are_clipped_to_learn_from_and_measured_as_they_are(tmp_path: Path) -> None:
    for i in (1, 2):
        made.image(tmp_path / "images" / f"{i}.png", 33, 44, seed=i)
    images = [{"id": i, "file_name": f"{i}.png", "height": 33, "width": 44} for i in (1, 2)]
    objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": [-3, 5, 99, 20]} for i in (1, 2)]
    made.coco(tmp_path / "all.json", images, objects, {1: "cat"})
    data = COCO(str(tmp_path), transforms=[Resize(33, 44)], num_workers=0)
    sample = DetectionDataset(data.train_annotations, data.transforms, training=True)[0]
    assert sample.boxes.tolist() == [[0, 5, 44, 25]]
    assert data.val_annotations.boxes.tolist() == [[-3, 5, 96, 25]]


def test_voc_reads_its_lists_and_shares_classes(tmp_path: Path) -> None:
    for stem, name in (("a", "cat"), ("b", "emu"), ("c", "emu"), ("d", "dog")):
        made.voc(tmp_path, stem, made.box(name, 2, 2, 30, 40))
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    for split, stems in (("train", "ab"), ("val", "c"), ("extra", "bd")):
        (tmp_path / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems))
    data = VOC(str(tmp_path))
    assert data.classes == ("cat", "emu")
    assert data.train_annotations.image_ids.tolist() == ["a", "b"]
    assert data.val_annotations.image_ids.tolist() == ["c"]
    assert data.val_annotations.labels.tolist() == [1]
    assert data.val_annotations.category_ids == data.train_annotations.category_ids == (1, 2)
    other = VOC(str(tmp_path), split={"train": "extra", "val": "train"})
    assert other.train_annotations.image_ids.tolist() == ["b", "d"]
    (tmp_path / "ImageSets" / "Main" / "train.txt").unlink()
    with pytest.raises(DataError, match=r"give `split\.train='LIST'` as well as `split\.val`"):
        _ = VOC(str(tmp_path), split={"val": "val"}).classes


def test_what_no_one_has_split_is_split_the_same_way_each_time(tmp_path: Path) -> None:
    made.simple_coco(tmp_path / "coco" / "all.json", tmp_path / "coco" / "images", 10)
    made.simple_coco(tmp_path / "half" / "train.json", tmp_path / "half" / "train", 10)
    for number in range(10):
        made.voc(tmp_path / "voc", f"{number}", made.box("fox" if number else "elk", 2, 2, 30, 40))
    for data, again in (
        (COCO(str(tmp_path / "coco")), COCO(str(tmp_path / "coco"))),
        (COCO(str(tmp_path / "half")), COCO(str(tmp_path / "half"))),
        (VOC(str(tmp_path / "voc")), VOC(str(tmp_path / "voc"))),
    ):
        train, val = data.train_annotations.files.tolist(), data.val_annotations.files.tolist()
        assert (len(train), len(val)) == (8, 2)
        assert not set(train) & set(val)
        assert again.val_annotations.files.tolist() == val
        assert data.val_annotations.classes == data.classes
        assert data.num_classes == 2
    assert len(COCO(str(tmp_path / "coco"), split={"val_fraction": 0.5}).val_annotations) == 5


@pytest.mark.parametrize(("count", "val"), [(2, 1), (3, 1), (10, 2), (1000, 200)])
def test_both_sides_of_a_split_get_images(count: int, val: int) -> None:
    train, held_out = split_indices(count, 0.2, "train"), split_indices(count, 0.2, "val")
    assert len(held_out) == val
    assert sorted([*train, *held_out]) == list(range(count))


@pytest.mark.parametrize("fraction", [-0.5, 0, 1, 20, float("nan")])
def test_a_share_for_validation_is_between_none_and_all(tmp_path: Path, fraction: float) -> None:
    made.simple_coco(tmp_path / "coco" / "all.json", tmp_path / "coco" / "images", 4)
    made.voc(tmp_path / "voc", "a", made.box("fox", 2, 2, 30, 40))
    for data in (
        COCO(str(tmp_path / "coco"), split={"val_fraction": fraction}),
        VOC(str(tmp_path / "voc"), split={"val_fraction": fraction}),
    ):
        with pytest.raises(ConfigError, match=rf"split\.val_fraction: {fraction} must be"):
            _ = data.classes


def test_a_model_brings_its_classes(tmp_path: Path) -> None:
    data = COCO(str(whole_coco(tmp_path)), transforms=SMALL, num_workers=0)
    assert data.val_annotations.labels.tolist() == [0, 0, 0]
    data.use_classes(["cow", "dog", "cat"])
    assert data.classes == ("cow", "dog", "cat")
    assert data.val_annotations.labels.tolist() == [2, 2, 2]
    assert data.val_annotations.category_ids == (-1, 2, 1)
    assert next(iter(data.val_dataloader())).targets.labels[0, 0] == 2
    with pytest.raises(
        DataError, match=r"none of its classes \(cat, dog, elk\) is among the classes to predict \(emu\)"
    ):
        data.use_classes(["emu"])


def test_classes_may_be_set_again(tmp_path: Path) -> None:
    """What other classes left out is there again."""
    objects = [{"id": i, "image_id": 0, "category_id": i + 1, "bbox": [4, 6, 20, 30]} for i in range(3)]
    entries = [{"id": 0, "file_name": "0.png", "height": 48, "width": 64}]
    for split in ("train", "val"):
        made.image(tmp_path / split / "0.png")
        made.coco(tmp_path / f"{split}.json", entries, objects, {1: "cat", 2: "dog", 3: "elk"})
    data = COCO(str(tmp_path))
    assert data.val_annotations.labels.tolist() == [0, 1, 2]
    for classes, labels in ((["dog"], [0]), (["elk", "dog", "cat"], [2, 1, 0]), (["cat", "elk"], [0, 1])):
        data.use_classes(classes)
        assert data.train_annotations.labels.tolist() == labels
        assert data.val_annotations.labels.tolist() == labels


def test_a_model_needs_no_training_data_to_be_evaluated(tmp_path: Path) -> None:
    made.simple_coco(tmp_path / "val.json", tmp_path / "val", 3)
    data = COCO(str(tmp_path))
    data.use_classes(["dog", "cat"])
    assert data.val_annotations.labels.tolist() == [1, 1, 1]
    with pytest.raises(DataError, match=r"no annotation file with train in its name; give `split\.train='FILE'`"):
        _ = data.train_annotations


def test_targets_leave_out_crowds_and_difficult_objects(tmp_path: Path) -> None:
    whole = made.annotations([40])
    made.image(tmp_path / "0.png", 50, 60)
    data = whole.__class__(**{**whole.__dict__, "root": tmp_path, "files": np.array(["0.png"])})
    sample = DetectionDataset(data, [Resize(100, 200), RandomHorizontalFlip()], training=False)[0]
    kept = ~(whole.crowd | whole.difficult)
    assert 0 < kept.sum() < 40
    assert np.allclose(sample.boxes.numpy(), 2 * whole.boxes[kept], atol=1e-4)
    assert sample.labels.tolist() == whole.labels[kept].tolist()
    assert sample.original_size == (50, 60)


def test_training_samples_repeat_for_a_seed_and_differ_between_seeds(tmp_path: Path) -> None:
    data = COCO(str(whole_coco(tmp_path)), transforms=[Resize(48, 64), Albumentations({"GaussNoise": {"p": 1}})])
    dataset = DetectionDataset(data.train_annotations, data.transforms, training=True)
    assert torch.equal(dataset[2, 5].image, dataset[2, 5].image)
    assert not torch.equal(dataset[2, 5].image, dataset[2, 6].image)


def test_workers_change_nothing(tmp_path: Path) -> None:
    root = str(whole_coco(tmp_path))
    loaders = [COCO(root, transforms=SMALL, num_workers=workers).train_dataloader() for workers in (0, 2)]
    for alone, shared in zip(*loaders, strict=True):
        assert torch.equal(alone.images, shared.images)
        assert torch.equal(alone.targets.boxes, shared.targets.boxes)


def test_prediction_sees_what_evaluation_sees(tmp_path: Path) -> None:
    data = COCO(str(whole_coco(tmp_path)), transforms=[Resize([60, 96], 200), RandomHorizontalFlip()], num_workers=0)
    batch = next(iter(data.val_dataloader()))
    image = preprocess(read_image(data.val_annotations.path(0)), data.preprocessing).image.permute(1, 2, 0).numpy()
    assert image.shape[:2] == tuple(batch.image_sizes[0].tolist()) == (96, 128)
    assert torch.equal(batch.images[0, :, :96, :128], torch.from_numpy(image).permute(2, 0, 1))


def test_a_recipe_rebuilds_it_without_any_data() -> None:
    data = COCO(
        "nowhere", batch_size=3, transforms=[Resize([60, 96], 200), Albumentations({"ColorJitter": {"p": 0.5}})]
    )
    again = from_config(json.loads(json.dumps(to_config(data))))
    assert to_config(again) == to_config(data)
    assert again.pad_shapes == data.pad_shapes
    assert again.preprocessing == ResizeConfig(96, 200)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_stops_with_its_path_alone(tmp_path: Path, workers: int) -> None:
    whole_coco(tmp_path)
    broken = tmp_path / "val2017" / "1.png"
    broken.write_bytes(b"nothing")
    with pytest.raises(DataError) as caught:
        rows(COCO(str(tmp_path), transforms=SMALL, num_workers=workers).val_dataloader())
    assert str(caught.value).startswith(f"{broken}: not an image")
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_augmentation_that_fails_stops_with_its_name_alone(tmp_path: Path, workers: int) -> None:
    transforms = [Resize(48, 64), Albumentations({"RandomCrop": {"height": 500, "width": 500, "p": 1}})]
    data = COCO(str(whole_coco(tmp_path)), transforms=transforms, num_workers=workers)
    with pytest.raises(ConfigError) as caught:
        rows(data.train_dataloader())
    assert str(caught.value).startswith(
        "transforms: Albumentations (RandomCrop) fails on an image of 48 x 64 pixels: Crop"
    )
    assert "Traceback" not in str(caught.value)


def test_where_nothing_is_the_ways_on_are_said() -> None:
    with pytest.raises(DataError, match=r"no/such: .*prepare_coco\.py.*--data data/shapes\.yaml"):
        _ = COCO("no/such").classes
    with pytest.raises(DataError, match="no/such"):
        _ = VOC("no/such").classes


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    made.coco(tmp_path / "train.json", [], [], {1: "cat"})
    made.simple_coco(tmp_path / "val.json", tmp_path / "val", 2)
    with pytest.raises(DataError, match="the train split has no images"):
        _ = COCO(str(tmp_path), CocoFormat(images={"train": "val"})).classes


@pytest.mark.parametrize("values", [{"batch_size": 0}, {"num_workers": -1}])
def test_values_that_make_no_sense_are_errors(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        COCO("x", **values)  # type: ignore[arg-type]


class Recorder(pl.LightningModule):
    """Writes down which images it is given. Its buffer makes DistributedDataParallel synchronise in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 1, 1)
        self.register_buffer("mean", torch.zeros(3))
        self.trained: list[list[int]] = []
        self.validated: list[list[int]] = []

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        self.trained.append([self.current_epoch, *batch.image_index.tolist()])
        return self.layer(batch.images / 255).mean()

    def validation_step(self, batch: Batch, _: int) -> None:
        self.validated.append(batch.image_index.tolist())
        self.layer(batch.images / 255)

    def on_validation_epoch_end(self) -> None:
        self.all_gather(torch.zeros(1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer(**options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return pl.Trainer(accelerator="cpu", **{**quiet, **options})


@pytest.mark.filterwarnings("ignore")
def test_each_epoch_is_shuffled_anew_and_resuming_goes_on(tmp_path: Path) -> None:
    data = COCO(str(whole_coco(tmp_path, train=9)), transforms=SMALL, num_workers=0, batch_size=2)
    straight, stopped, resumed = Recorder(), Recorder(), Recorder()
    trainer(max_epochs=3, enable_checkpointing=False).fit(straight, data)
    first = trainer(max_epochs=2, enable_checkpointing=False)
    first.fit(stopped, data)
    first.save_checkpoint(tmp_path / "last.ckpt")
    trainer(max_epochs=3, enable_checkpointing=False).fit(resumed, data, ckpt_path=tmp_path / "last.ckpt")
    epochs = [[row for epoch, *rows in straight.trained for row in rows if epoch == number] for number in range(3)]
    assert all(sorted(epoch) == list(range(9)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert straight.trained == stopped.trained + resumed.trained
    assert sorted(rows(data.train_dataloader())) == list(range(9))  # whole again after a training


@pytest.mark.filterwarnings("ignore")
def test_overfitting_sees_the_same_batches_again(tmp_path: Path) -> None:
    data = COCO(str(whole_coco(tmp_path, train=9)), transforms=SMALL, num_workers=0, batch_size=2)
    module = Recorder()
    trainer(max_epochs=3, overfit_batches=2, enable_checkpointing=False).fit(module, data)
    assert module.trained == [[epoch, *rows] for epoch in range(3) for rows in ([0, 1], [2, 3])]


def record(root: Path) -> None:
    """Write the images that a rank trained on, and those that it validated."""
    module = Recorder()
    run = trainer(devices=2, max_epochs=2, enable_checkpointing=False)
    run.fit(module, COCO(str(root), transforms=SMALL, num_workers=0, batch_size=2))
    (root / f"{run.global_rank}.out").write_text(json.dumps([module.trained, module.validated]))


def test_two_ranks_share_the_images_and_neither_waits_for_ever(tmp_path: Path) -> None:
    whole_coco(tmp_path, train=9, val=1)  # the second rank has nothing to validate
    on_two_ranks(record, tmp_path)
    ranks = [json.loads((tmp_path / f"{rank}.out").read_text()) for rank in range(2)]
    for epoch in range(2):
        rows = [row for trained, _ in ranks for number, *rows in trained for row in rows if number == epoch]
        assert sorted(set(rows)) == list(range(9))
        assert len(rows) == 10  # the one image of the last step goes to both
    assert ranks[0][0] != ranks[1][0]
    assert [validated for _, validated in ranks] == [[[0], [0]], [[], []]]


class Hungry(torch.utils.data.Dataset[torch.Tensor]):
    """What reads it is killed, as by a system that has no memory left."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, row: int) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(1)


def test_a_killed_worker_is_explained() -> None:
    with pytest.raises(DetsegError, match=r"a loader process was killed.* fewer `num_workers`, a smaller"):
        list(Loader(Hungry(), num_workers=1))
