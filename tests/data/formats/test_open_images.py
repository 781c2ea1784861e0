from __future__ import annotations

import logging
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.data import DetectionDataModule
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.formats.layout import Tree
from detseg.data.formats.open_images import OpenImagesFormat, read_descriptions, read_open_images
from detseg.errors import DataError
from tests.data import made

HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
NAMES = '/m/011k07,Tortoise\n/m/02wbgd,"Bicycle, old"\n'


def line(image: str, code: str, x1: object, x2: object, y1: object, y2: object, group: int = 0) -> str:
    return f"{image},xclick,{code},1,{x1},{x2},{y1},{y2},0,0,{group},0,0"


def table(root: Path, split: str, *lines: str, names: str = NAMES, header: str = HEADER) -> Path:
    """A table of boxes; each image that is named is written, but those called gone."""
    for number, text in enumerate(lines):
        stem = text.split(",")[0]
        if stem and stem.isalnum() and not stem.startswith("gone"):
            made.image(root / split / f"{stem}.jpg", seed=number)
    (root / "class-descriptions-boxable.csv").write_text(names)
    file = root / f"{split}-annotations-bbox.csv"
    file.write_text("\n".join([header, *lines]) + "\n")
    return file


def read(root: Path, part: str = "all") -> DetectionAnnotations:
    (source,) = OpenImagesFormat().detect(Tree(root))
    return source.read(part)


def test_an_image_that_is_missing_counts_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("one", "two"):
        boxes = [line(image, "/m/011k07", 0, 1, 0, 1) for image in ("a1", "gone1", "gone1")]
        table(tmp_path, name, *boxes)
    (tmp_path / "two" / "a1.jpg").unlink()
    assert read(tmp_path).offsets.tolist() == [0, 2]
    assert "1 images of one-annotations-bbox.csv, two-annotations-bbox.csv are not there, such as gone1" in caplog.text


def test_shares_become_pixels_and_groups_crowds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table(
        tmp_path, "train",
        line("b1", "/m/02wbgd", 0.25, 0.5, 0, 1),
        line("a1", "/m/011k07", 0, 1, 0.5, 0.75, group=1),
        line("gone1", "/m/011k07", 0, 1, 0, 1),
        line("b1", "/m/011k07", 0.5, 0.75, 0.25, 0.5, group=-1),
    )  # fmt: skip
    found = read(tmp_path)
    assert found.classes == ("Tortoise", "Bicycle, old")
    assert found.image_ids.tolist() == ["b1", "a1"]
    assert found.files.tolist() == ["train/b1.jpg", "train/a1.jpg"]
    assert found.offsets.tolist() == [0, 2, 3]
    assert found.boxes.tolist() == [[16, 0, 32, 48], [32, 12, 48, 24], [0, 24, 64, 36]]
    assert found.labels.tolist() == [1, 0, 0]
    assert found.crowd.tolist() == [False, False, True]
    assert found.areas.tolist() == [16 * 48, 16 * 12, 64 * 12]
    assert "left out boxes: 1 images of train-annotations-bbox.csv are not there, such as gone1.jpg" in caplog.text


def test_the_split_is_that_of_the_tables(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "validation", "test"):
        table(tmp_path, split, line(f"{split}1", "/m/011k07", 0, 1, 0, 1))
    with caplog.at_level(logging.INFO):
        data = DetectionDataModule(str(tmp_path))
        assert data.val_annotations.files.tolist() == ["validation/validation1.jpg"]
    assert "in the format OpenImages (train, val, test)" in caplog.text
    assert data.val_annotations.category_ids == (1, 2)


def test_descriptions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"put class-descriptions-boxable\.csv"):
        read_descriptions(Tree(tmp_path))
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "classes.csv").write_text("LabelName,DisplayName\n/m/01,Cat\n/m/02,Cat\n/g/3,Dog\n")
    expected = {"/m/01": "Cat (/m/01)", "/m/02": "Cat (/m/02)", "/g/3": "Dog"}
    assert read_descriptions(Tree(tmp_path)) == expected
    (tmp_path / "oidv7-class-descriptions-boxable.csv").write_text("/m/01,Cat\n/m/02,\n")
    with pytest.raises(DataError, match=r"boxable\.csv: line 2 gives /m/02 no name"):
        read_descriptions(Tree(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (line("a", "/m/none", 0, 1, 0, 1), "line 3 has LabelName '/m/none', which no class-descriptions"),
        (
            line("a", "/m/011k07", 0, "wide", 0, 1),
            r"line 3 has corners \['0', '0', 'wide', '1'\], which are no numbers",
        ),
        (line("a", "/m/011k07", 0, "nan", 0, 1), "line 3 has corners"),
        ("a,x,y", "line 3 has 3 values, but the header 13"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    table(tmp_path, "train", line("a", "/m/011k07", 0, 1, 0, 1), text)
    with pytest.raises(DataError, match=rf"train-annotations-bbox\.csv: {message}"):
        read(tmp_path)


def test_a_table_without_any_of_its_images_is_an_error(tmp_path: Path) -> None:
    table(tmp_path, "train", line("gone", "/m/011k07", 0, 1, 0, 1))
    with pytest.raises(
        DataError, match=r"1 images of train-annotations-bbox\.csv are not there, such as gone\.jpg; put"
    ):
        read(tmp_path)


@settings(max_examples=60, deadline=None)
@given(
    st.text(alphabet='ab,/m.01\n"-e', max_size=40),
    st.text(alphabet='/m01,Cat\n"', max_size=20) | st.just(NAMES),
    st.binary(max_size=20),
)
def test_nothing_but_data_errors(text: str, names: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        first = line("a", "/m/011k07", 0, 1, 0, 1)
        file = table(root, "train", first, text, names=names)
        for more in (b"", content):
            file.write_bytes(file.read_bytes() + more)
            with suppress(DataError):
                read_open_images(Tree(root), [file.name])
