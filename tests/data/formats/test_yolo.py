from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.formats import yolo as yolo_format
from detseg.data.formats.layout import Tree
from detseg.data.formats.yolo import YoloFormat, read_yolo
from detseg.data.formats.yolo_settings import read_names
from detseg.errors import DataError
from tests.data import made


def yolo(root: Path, labels: dict[str, str], names: str = "names: [cat, dog]\n") -> Path:
    """Label files by the stems of their images, which are 64 x 48 and are written as well."""
    (root / "labels").mkdir(parents=True, exist_ok=True)
    for stem, text in labels.items():
        made.image(root / "images" / f"{stem}.png")
        (root / "labels" / f"{stem}.txt").parent.mkdir(parents=True, exist_ok=True)
        (root / "labels" / f"{stem}.txt").write_text(text)
    (root / "data.yaml").write_text(names)
    return root


def read(root: Path, part: str = "all") -> DetectionAnnotations:
    (source,) = YoloFormat().detect(Tree(root))
    return source.read(part)


def test_boxes_polygons_and_background(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = yolo(tmp_path, {"a": "1 0.5 0.5 0.25 0.5\n0 0 0 0.5 0 0 0.5\n", "b": ""})
    made.image(root / "images" / "c.png")
    found = read(root)
    assert (found.classes, found.category_ids) == (("cat", "dog"), (0, 1))
    assert found.files.tolist() == ["images/a.png", "images/b.png", "images/c.png"]
    assert found.offsets.tolist() == [0, 2, 2, 2]
    assert found.boxes.tolist() == [[24, 12, 40, 36], [0, 0, 32, 24]]
    assert found.areas.tolist() == [16 * 24, 32 * 24 / 2]
    assert "1 images without a label file, where others have one (label-missing)" in caplog.text


def test_the_split_is_that_of_the_folders(tmp_path: Path) -> None:
    root = yolo(tmp_path, {"train/a": "0 .5 .5 .1 .1", "valid/b": "1 .5 .5 .2 .2"})
    assert read(root, "train").files.tolist() == ["images/train/a.png"]
    assert read(root, "val").files.tolist() == ["images/valid/b.png"]


def test_equal_stems_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    root = yolo(tmp_path, {"train/a": "0 .5 .5 .1 .1", "val/a": "1 .5 .5 .2 .2"})
    assert read(root, "val").labels.tolist() == [1]


def test_images_may_be_called_like_lists(tmp_path: Path) -> None:
    root = yolo(tmp_path, dict.fromkeys(("train", "val", "test", "a"), "0 .5 .5 .1 .1") | {"classes": ""})
    (root / "train.txt").write_text("images/train.png\nimages/a.png\n")  # these are lists
    (root / "labels" / "classes.txt").write_text("cat\ndog\n")
    assert np.diff(read(root).offsets).tolist() == [1, 0, 1, 1, 1]  # a, classes, test, train, val


def test_a_folder_is_judged_by_its_first_files_that_are_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yolo_format, "TRIES", 2)
    root = yolo(tmp_path, {"a": "", "b": "0 .5 .5 .1 .1", "c": "0 .5 .5 .1 .1"})
    (root / "notes").mkdir()
    for name, text in (("a", ""), ("b", "a dog"), ("c", "0 one"), ("d", "a cat"), ("e", "0 .5 .5 .1 .1")):
        (root / "notes" / f"{name}.txt").write_text(text)
    opened: list[str] = []
    read_head = yolo_format.read_head

    def counted(file: Path) -> str:
        opened.append(file.relative_to(root).as_posix())
        return read_head(file)

    monkeypatch.setattr(yolo_format, "read_head", counted)
    assert read(root).offsets.tolist() == [0, 0, 1, 2]
    assert opened == ["labels/a.txt", "labels/b.txt", "notes/a.txt", "notes/b.txt", "notes/c.txt"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 .5 .5 .1 .1", "class 2, and no class has this number; they go from 0 to 1"),
        ("0 .5 .5 .1", "3 numbers after the class"),
        ("0 .5 .5 .1 .1 .2", "5 numbers after the class"),
        ("0 .5 nan .1 .1", "non-finite value"),
        ("cat .5 .5 .1 .1", "begins with 'cat'"),
        ("0 .5 .5 .1 wide", "values that are not numbers"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    root = yolo(tmp_path, {"a": f"0 .5 .5 .1 .1\n{line}\n0 .5 .5 .1 .1\n"})
    pairs: dict[str, str | None] = {"images/a.png": "labels/a.txt"}
    with pytest.raises(DataError, match=rf"a\.txt: line 2 .*{message}"):
        read_yolo(root, pairs)
    (root / "labels" / "a.txt").write_text("0 .5 .5 .1 .1\n0 .5 .5 .1 .1\n")
    assert len(read_yolo(root, pairs).boxes) == 2


@pytest.mark.parametrize(
    "text",
    [
        "names: {0: cat, x: dog}",
        "names: {-1: cat}",
        "names: 3",
        "names: [cat, cat]",
        "names: [",
        "other: 1",
        "!!python/none {}",
    ],
)
def test_wrong_names_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=str(tmp_path)):
        read_names(tmp_path)


@pytest.mark.parametrize("text", ["names: {0: cat, 1: dog}", "names:\n- cat\n- dog\n", "nc: 2\nnames: ['cat', 'dog']"])
def test_names(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")  # the same again does no harm
    assert read_names(tmp_path) == {0: "cat", 1: "dog"}


def test_names_may_have_gaps_and_must_agree(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("names: {0: cat, 7: dog}")
    assert read_names(tmp_path) == {0: "cat", 7: "dog"}
    (tmp_path / "b.yaml").write_text("names: [cat, elk]")
    assert read_names(tmp_path) == {0: "cat", 1: "elk", 7: "dog"}
    (tmp_path / "obj.names").write_text("dog\ncat\n")
    with pytest.raises(DataError, match=r"obj\.names: calls class 0 'dog'"):
        read_names(tmp_path)


@settings(max_examples=50, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text("0123456789. -+einfa\n", max_size=60).map(str.encode)))
def test_nothing_but_data_errors(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = yolo(Path(folder), {"a": ""})
        for file in (root / "labels" / "a.txt", root / "data.yaml"):
            file.write_bytes(content)
            with suppress(DataError):
                read_yolo(root, {"images/a.png": "labels/a.txt"})
            (root / "data.yaml").write_text("names: [cat, dog]")


@pytest.mark.parametrize(
    ("labels", "names"),
    [("labels_yolo_box", "object_detection.yaml"), ("labels_yolo_seg", "instance_segmentation.yaml")],
)
def test_real_labels(shared_data: Path, labels: str, names: str) -> None:
    root = shared_data / "coco128_train"
    (source,) = YoloFormat(labels, names).detect(Tree(root))
    table = source.read("all")
    pictures = {file.stem for file in (root / "images").rglob("*.jpg")}
    files = [file for file in (root / labels).rglob("*.txt") if file.stem in pictures]
    assert len(table.files) == 128
    assert len(table.boxes) == sum(len(file.read_text().splitlines()) for file in files)
