"""Training stops before the first step if the labels are unusable."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from detseg import cli
from detseg.check.training_checks import check_before_training
from detseg.data import COCO
from detseg.errors import DataError
from tests.check.test_checking import coco, write
from tests.cli.test_errors import CONFIG


def data(root: Path, train: list[dict[str, Any]], val: list[dict[str, Any]]) -> COCO:
    """A data set with these annotations of its two splits."""
    content = coco(root)
    write(root, content | {"images": content["images"][:2], "annotations": train}, "train.json")
    write(root, content | {"images": content["images"][2:], "annotations": val}, "val.json")
    return COCO(str(root))


def entry(number: int, **changes: Any) -> dict[str, Any]:
    return {"id": number, "image_id": number, "category_id": 1, "bbox": [4, 6, 20, 30], **changes}


def test_sound_labels_pass(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_before_training(data(tmp_path, [entry(0)], [entry(2)]), validates=True)
    assert not caplog.records


@pytest.mark.parametrize("change", [{"bbox": [4, 6, 0, 30]}, {"bbox": [90, 6, 20, 30]}, {"iscrowd": 1}])
def test_nothing_to_learn_from(tmp_path: Path, change: dict[str, Any]) -> None:
    for train, val, part in (([entry(0, **change)], [entry(2)], "train"), ([entry(0)], [entry(2, **change)], "val")):
        command = f"`detseg check {shlex.quote(str(tmp_path))}`"
        with pytest.raises(DataError, match=rf"the {part} split has 2 images and no object .*{command}"):
            check_before_training(data(tmp_path, train, val), validates=True)
    check_before_training(data(tmp_path, [entry(0)], [entry(2, **change)]), validates=False)


def test_boxes_in_shares(tmp_path: Path) -> None:
    shares = {"bbox": [0.1, 0.1, 0.5, 0.5]}
    with pytest.raises(DataError, match=r"train.json: 2 of 2 boxes have coordinates from 0 to 1.*--fix"):
        check_before_training(data(tmp_path, [entry(0, **shares), entry(1, **shares)], [entry(2)]), validates=True)
    check_before_training(data(tmp_path, [entry(0), entry(1, **shares)], [entry(2)]), validates=True)  # one small box


def test_one_image_in_both_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, coco(tmp_path), "train.json")
    write(tmp_path, coco(tmp_path), "val.json")
    check_before_training(COCO(str(tmp_path)), validates=True)
    assert f"the train and the val split share 4 images, such as {tmp_path}/images/0.png" in caplog.text


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text(CONFIG)

    def said(train: list[dict[str, Any]]) -> str:
        data(tmp_path / "colours", train, [entry(2)])
        with pytest.raises(SystemExit, match="1"):
            cli.main(["train", "--config", "my.yaml", "--trainer.accelerator", "cpu"])
        return capsys.readouterr().err

    printed = said([entry(0, bbox=[4, 6, 0, 30])])
    assert "error: colours/images: the train split has 2 images and no object to learn from" in printed
    assert not (tmp_path / "runs").exists()
    printed = said([entry(0, category_id=2), entry(1, category_id=3)])
    assert "which is not in the categories; 3 is used, which is no class, and 1 never: all numbers look" in printed
    assert "`detseg check colours`" in printed
    (tmp_path / "colours" / "train.json").write_text(json.dumps({"images": [], "annotations": []}))
    with pytest.raises(SystemExit, match="1"):
        cli.main(["train", "--config", "my.yaml"])
    assert "All problems of the data set: `detseg check colours`" in capsys.readouterr().err


def test_missing_masks_are_no_issue_that_a_check_would_list(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text(CONFIG)
    data(tmp_path / "colours", [entry(0)], [entry(2)])
    with pytest.raises(SystemExit, match="1"):
        cli.main(["train", "--config", "my.yaml", "--data.masks", "all"])
    said = capsys.readouterr().err
    assert "1 of 1 objects have no mask that can be used" in said
    assert "detseg check" not in said
