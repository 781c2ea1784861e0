from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from detseg import cli
from detseg.cli._configs import find_configs, for_other_data
from detseg.data import DetectionDataModule, RandomHorizontalFlip, Resize
from detseg.data.formats.yolo import YoloFormat
from detseg.errors import ConfigError, DataError
from tests.data import made

NAMES = "names: [cat, dog]\n"


def yolo(root: Path, images: dict[str, int]) -> Path:
    """Images by path, each with the seed of its pixels, and a box in each."""
    for name, seed in images.items():
        made.image(root / "images" / f"{name}.png", seed=seed)
        file = root / "labels" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1 .5 .5 .5 .5\n")
    (root / "data.yaml").write_text(NAMES)
    return root


def test_a_ready_split_is_used_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = yolo(tmp_path, {"train/a": 1, "train/b": 2, "val/c": 3})
    with caplog.at_level(logging.INFO):
        data = DetectionDataModule(str(root), transforms=[Resize(48, 64), RandomHorizontalFlip()], num_workers=0)
        assert (len(data.train_annotations), len(data.val_annotations)) == (2, 1)
    assert f"{root}: taken for a data set in the format YOLO in {root}/labels (train, val)" in caplog.text
    (batch,) = data.val_dataloader()
    assert batch.targets.boxes[0, 0].tolist() == [16, 12, 48, 36]


def test_identical_pictures_stay_on_one_side(tmp_path: Path) -> None:
    root = yolo(tmp_path, {f"{number:02}": number // 2 for number in range(20)})
    sides = set()
    for seed in range(5):
        data = DetectionDataModule(str(root), split={"val_fraction": 0.3, "seed": seed})
        held_out = {int(Path(file).stem) for file in data.val_annotations.files}
        learnt = {int(Path(file).stem) for file in data.train_annotations.files}
        assert held_out | learnt == set(range(20))
        assert len(held_out) == 6
        assert {number // 2 for number in held_out}.isdisjoint(number // 2 for number in learnt)
        again = DetectionDataModule(str(root), split={"val_fraction": 0.3, "seed": seed}).val_annotations.files
        assert data.val_annotations.files.tolist() == again.tolist()
        sides.add(frozenset(held_out))
    assert len(sides) > 1


def test_coco_and_voc_are_found(tmp_path: Path) -> None:
    made.simple_coco(tmp_path / "coco" / "train.json", tmp_path / "coco" / "train", 2, {5: "cat", 1: "dog"})
    made.simple_coco(tmp_path / "coco" / "val.json", tmp_path / "coco" / "val", 1)
    found = DetectionDataModule(str(tmp_path / "coco"))
    assert (found.train_annotations.category_ids, len(found.val_annotations)) == ((1, 5), 1)
    for stem in "abc":
        made.voc(tmp_path / "voc", stem, made.box("cat", 1, 1, 9, 9))
    assert DetectionDataModule(str(tmp_path / "voc")).val_annotations.category_ids == (1,)


def test_what_is_unknown_or_ambiguous_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        DetectionDataModule(str(tmp_path / "absent")).read("train")
    (tmp_path / "notes.doc").write_text("")
    with pytest.raises(DataError, match=r"no labels of a known format\. Looked for COCO .*Found files: 1 \.doc"):
        DetectionDataModule(str(tmp_path)).read("train")
    root = yolo(tmp_path, {"a": 1, "b": 2})
    shutil.copytree(root / "labels", root / "labels_two")
    with pytest.raises(DataError, match=r"more than once: YOLO in .*labels; YOLO in .*labels_two.*`format='YOLO'`"):
        DetectionDataModule(str(root)).read("train")
    assert len(DetectionDataModule(str(root), YoloFormat(labels="labels_two")).read("train")) == 1
    with pytest.raises(ConfigError, match=r"format='XML'`: there is auto, COCO"):
        DetectionDataModule(str(root), format="XML")
    with pytest.raises(ConfigError, match="val_fraction"):
        DetectionDataModule(str(root), YoloFormat(labels="labels"), split={"val_fraction": 1.0}).read("train")


@pytest.mark.parametrize("arguments", [["--data", "mine"], ["--data=mine"]])
def test_a_folder_is_a_value_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    def changed(*arguments: str) -> list[str]:
        return for_other_data(find_configs(arguments), DetectionDataModule)

    monkeypatch.chdir(tmp_path)
    for name in ("mine", "COCO"):
        (tmp_path / name).mkdir()
    base = ["--data=detseg.data.modules.detection.DetectionDataModule", "--data.format=auto", "--data.split=null"]
    now = ["--data=DetectionDataModule", "--data.root=mine", "--task.lr=0.1"]
    assert changed(*arguments, "--task.lr", "0.1") == [*base, *now]
    assert changed("--data", "COCO", "--data.root=there") == [*base, "--data=COCO", "--data.root=there"]
    with pytest.raises(ConfigError, match="root must be set"):
        changed("--data", "COCO")


@pytest.mark.parametrize(("name", "train", "val"), [("raccoon", 160, 40), ("tiny_coco", 50, 50), ("nuts_coco", 14, 4)])
def test_real_folders(shared_data: Path, name: str, train: int, val: int) -> None:
    data = DetectionDataModule(str(shared_data / name))
    assert (len(data.train_annotations), len(data.val_annotations)) == (train, val)


def test_a_real_folder_of_several_kinds(shared_data: Path) -> None:
    with pytest.raises(DataError, match=r"COCO; YOLO in .*labels_yolo_box; YOLO in .*labels_yolo_seg"):
        DetectionDataModule(str(shared_data / "coco128_train")).read("train")
    data = DetectionDataModule(
        str(shared_data / "coco128_train"), YoloFormat(labels="labels_yolo_box", names="object_detection.yaml")
    )
    assert (len(data.train_annotations), len(data.val_annotations)) == (102, 26)


def test_the_command_line_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    yolo(tmp_path / "mine", {"train/a": 1, "train/b": 2, "val/c": 3})
    settings = ("--config", "faster_rcnn_shapes.yaml", "--data.num_workers", "0", "--trainer.accelerator", "cpu")
    cli.main(["train", *settings, "--data", "mine", "--trainer.fast_dev_run", "true"])
    assert "mine: taken for a data set in the format YOLO" in capsys.readouterr().err
