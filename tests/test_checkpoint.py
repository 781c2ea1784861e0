"""Checkpoints: what they carry, and what happens with files that are not what they should be."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

import detseg
from detseg import checkpoint
from detseg.callbacks import BestCheckpoint, LastCheckpoint
from detseg.errors import CheckpointError
from detseg.tasks import DetectionTask
from tests.colours import IDS, ColourDetector, colours, write_colours


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that a training of one epoch wrote."""
    folder = tmp_path_factory.mktemp("trained")
    task = DetectionTask(ColourDetector(losses=2.0), lr=1.0)
    task.config = {"trainer": {"max_epochs": 1}}
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[BestCheckpoint(folder), LastCheckpoint(folder)],
    )
    trainer.fit(task, colours(write_colours(folder / "data"), batch_size=1))
    return folder / "last.ckpt"


def plain(value: Any) -> bool:
    """Whether there are tensors, numbers, texts and containers of them only."""
    if isinstance(value, dict):
        return all(isinstance(key, (str, int)) and plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(plain, value))
    return value is None or type(value) in (str, int, float, bool) or isinstance(value, torch.Tensor)


def altered(path: Path, target: Path, **changes: Any) -> Path:
    """A copy of a checkpoint that says something else about itself."""
    content = checkpoint.read(path)
    content["detseg"].update(changes)
    torch.save(content, target)
    return target


def test_it_carries_all_that_evaluation_and_prediction_need(trained: Path) -> None:
    task = checkpoint.load(trained)
    assert task.class_names == ("red", "green", "blue")
    assert task.model.category_ids == tuple(IDS.values())
    assert task.config == {"trainer": {"max_epochs": 1}}
    assert task.metric_values["AP"] == 1.0
    assert isinstance(task.model, ColourDetector)
    assert task.model.losses == 2.0
    assert task.model.weight.abs().sum() > 0
    assert not task.model.training
    (found,) = detseg.load(trained)(trained.parent / "data" / "val" / "val2.png")
    assert sorted(found.names) == ["blue", "green", "red"]


def test_all_of_it_is_plain(trained: Path) -> None:
    content = torch.load(trained, weights_only=True)
    assert plain(content["detseg"])
    assert "hyper_parameters" not in content
    assert "hparams_name" not in content


def test_the_best_one_has_its_figures_beside_it(trained: Path) -> None:
    assert '"AP": 1.0' in trained.with_name("metrics.json").read_text()


def test_a_saved_task_is_the_loaded_one(trained: Path, tmp_path: Path) -> None:
    checkpoint.save(checkpoint.load(trained), tmp_path / "again.ckpt")
    one, other = checkpoint.load(trained), checkpoint.load(tmp_path / "again.ckpt")
    assert str(one.describe()) == str(other.describe())  # as text, since nan is not nan
    assert torch.equal(one.model.weight, other.model.weight)


def test_missing_file_names_the_newest_checkpoint_of_its_folder_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(("other/last", "mine/previous", "mine/last")):
        file = Path("runs", f"{name}.ckpt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.utime(file, (1e9 - age, 1e9 - age))  # the newest is that of the other run
    for folder, newest in (
        ("mine", "in runs/mine is runs/mine/previous.ckpt"),
        ("new", "of another run is runs/other/last.ckpt"),
    ):
        with pytest.raises(CheckpointError, match=f"no such file; the newest checkpoint {newest}$"):
            checkpoint.read(f"runs/{folder}/best.ckpt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
        (b"<html>", "HTML"),
    ],
)
def test_a_failed_download_is_explained(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"bad.ckpt: .*{message}"):
        checkpoint.load(tmp_path / "bad.ckpt")


@pytest.mark.parametrize("content", [b"text", b"PK\x03\x04 and so on", "half"])
def test_a_damaged_file_is_named(trained: Path, tmp_path: Path, content: bytes | str) -> None:
    whole = trained.read_bytes()
    (tmp_path / "bad.ckpt").write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    with pytest.raises(CheckpointError, match=r"bad.ckpt: damaged"):
        checkpoint.load(tmp_path / "bad.ckpt")


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_objects_are_refused_and_nothing_runs(tmp_path: Path) -> None:
    torch.save({"state_dict": Attack(tmp_path / "made")}, tmp_path / "new.ckpt")
    torch.save({"state_dict": Attack(tmp_path / "made")}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(Attack(tmp_path / "made"), protocol=2))
    for name in ("new.ckpt", "old.ckpt", "pickle.ckpt"):
        with pytest.raises(CheckpointError, match=name):
            checkpoint.load(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"holds posix.mkdir.*could run code"):
        checkpoint.load(tmp_path / "new.ckpt")
    assert not (tmp_path / "made").exists()


def test_a_class_is_not_imported_for_its_name(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'made')!r}, 'w')\nclass Net: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("evil.Net", "os.system", "Net"):
        path = altered(trained, tmp_path / "bad.ckpt", model={"class": name, "init_args": {}})
        with pytest.raises(CheckpointError, match=rf"{name}: not a class of detseg"):
            checkpoint.load(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"class": "COCO", "init_args": {"root": "x"}}, "COCO is none of Detector, Classifier, Segmenter"),
        ({"class": "tests.colours.ColourDetector", "init_args": {"colour": 1}}, "unexpected keyword argument"),
        ({"class": "FasterRCNN", "init_args": {"backbone": {"class": "MobileNetV2", "init_args": {}}}}, "num_classes"),
        ("ColourDetector", "str is none of Detector, Classifier, Segmenter"),
        (None, "NoneType is none of Detector, Classifier, Segmenter"),
    ],
)
def test_a_wrong_network_is_said(trained: Path, tmp_path: Path, model: Any, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        checkpoint.load(altered(trained, tmp_path / "bad.ckpt", model=model))


def test_weights_of_another_network_are_said(trained: Path, tmp_path: Path) -> None:
    content = checkpoint.read(trained)
    content["state_dict"] = {"model.other": torch.zeros(1)}
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(CheckpointError, match=r"(?s)bad.ckpt: .*weight"):
        checkpoint.load(tmp_path / "bad.ckpt")


def test_foreign_files_are_told_apart(trained: Path, tmp_path: Path) -> None:
    torch.save({"backbone.body.conv1.weight": torch.zeros(1)}, tmp_path / "torchvision.pth")
    with pytest.raises(CheckpointError, match="detseg convert"):
        checkpoint.load(tmp_path / "torchvision.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        checkpoint.load(tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="another version"):
        checkpoint.load(altered(trained, tmp_path / "future.ckpt", format=99))
