"""Annotations of Create ML, as Apple describes and Roboflow exports them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detseg.data.formats.format_detection import detect_source
from detseg.errors import DataError
from tests.data import made


def one(label: Any = "cat", **changes: Any) -> dict[str, Any]:
    return {"label": label, "coordinates": {"x": 14, "y": 21.5, "width": 20, "height": 31} | changes}


def createml(root: Path, entries: Any) -> Path:
    root.mkdir(exist_ok=True)
    file = root / "_annotations.createml.json"
    file.write_text(json.dumps(entries))
    return file


def test_boxes_by_their_centres(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "valid")):
        for name in "ab":
            made.image(tmp_path / split / f"{name}.jpg", seed=2 * number + (name == "b"))
        entries = [{"image": "a.jpg", "annotations": [one(), one("dog", x=30)]}, {"image": "b.jpg", "annotations": []}]
        createml(tmp_path / split, entries)
    source = detect_source(tmp_path)
    assert source.format.name == "CreateML"
    table = source.read("train")
    assert (table.classes, table.files.tolist()) == (("cat", "dog"), ["train/a.jpg", "train/b.jpg"])
    assert (table.boxes.tolist(), table.offsets.tolist()) == ([[4, 6, 24, 37], [20, 6, 40, 37]], [0, 2, 2])
    assert len(source.read("val")) == 2


def test_the_keys_of_turi_create(tmp_path: Path) -> None:
    made.image(tmp_path / "a.jpg")
    createml(tmp_path, [{"imagefilename": "a.jpg", "annotation": [one()]}])
    assert detect_source(tmp_path).read("all").boxes.tolist() == [[4, 6, 24, 37]]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (one(""), "has label = ''"),
        (one(x="left"), r"has coordinates \['left'"),
        ({"label": "cat"}, "has no coordinates"),
        (3, "has label = None"),
    ],
)
def test_broken_annotations_are_named(tmp_path: Path, broken: Any, message: str) -> None:
    made.image(tmp_path / "a.jpg")
    file = createml(tmp_path, [{"image": "a.jpg", "annotations": [one(), broken]}])
    with pytest.raises(DataError, match=rf"{file}: image 'a\.jpg': annotation 2 {message}"):
        detect_source(tmp_path).read("all")


def test_broken_files_are_named(tmp_path: Path) -> None:
    file = createml(tmp_path, [{"image": "a.jpg", "annotations": [one()]}])
    source = detect_source(tmp_path)
    with pytest.raises(DataError, match=rf"{file}: no image 'a\.jpg'"):
        source.read("all")
    file.write_text(file.read_text()[:-2])
    with pytest.raises(DataError, match=rf"{file}: broken JSON"):
        source.read("all")
    file.write_text('{"label": 1, "coordinates": 2, "width": 3}')
    with pytest.raises(DataError, match=rf"{file}: not a file of Create ML"):
        source.read("all")
