from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.data.formats.csv import CsvFormat, read_csv
from detseg.data.formats.layout import Tree
from detseg.errors import DataError
from tests.data import made

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax"


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (HEADER, "a.png,64,48,cat,1,2,30.5,40"),
        ("image_path,x1,y1,x2,y2,label", "some/where/a.png,1,2,30.5,40,cat"),
        ('"label";"left";"top";"right";"bottom";"image"', '"cat";1;2;30.5;40;"a.png"'),
        ("\ufeffx_min\ty_min\tx_max\ty_max\tname\tfile", "1\t2\t30.5\t40\tcat\ta.png"),
    ],
)
def test_the_header_says_what_the_columns_are(tmp_path: Path, header: str, line: str) -> None:
    made.image(tmp_path / "images" / "a.png")
    (tmp_path / "labels.csv").write_text(f"{header}\n{line}\n\n", encoding="utf-8")
    (source,) = CsvFormat().detect(Tree(tmp_path))
    annotations = source.read("all")
    assert annotations.files.tolist() == ["images/a.png"]
    assert annotations.boxes.tolist() == [[1, 2, 30.5, 40]]
    assert annotations.classes == ("cat",)


def test_an_image_without_objects_and_one_with_two(tmp_path: Path) -> None:
    for name in "ab":
        made.image(tmp_path / f"{name}.png")
    (tmp_path / "t.csv").write_text(f"{HEADER}\nb.png,,,,,,,\na.png,,,x,0,0,5,5\nb.png,,,,,,,\na.png,,,w,0,0,9,9\n")
    annotations = read_csv(Tree(tmp_path), ["t.csv"])
    assert annotations.files.tolist() == ["b.png", "a.png"]
    assert annotations.offsets.tolist() == [0, 0, 2]
    assert (annotations.classes, annotations.labels.tolist()) == (("w", "x"), [1, 0])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png,1,1,cat,1,2,wide,4", "line 3 has corners"),
        ("a.png,1,1,cat,1,2,inf,4", "line 3 has corners"),
        ("a.png,1,1,cat,1,,3,4", "line 3 has corners"),
        ("a.png,1,1,,1,2,3,4", "line 3 has no name"),
        ("../b.png,1,1,cat,1,2,3,4", r"line 3 names '\.\./b\.png', and there is no such image"),
        ("a.png,1", "line 3 has 2 values"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    made.image(tmp_path / "b.png")
    made.image(tmp_path / "in" / "a.png")
    good = "a.png,64,48,cat,1,2,3,4"
    (tmp_path / "in" / "t.csv").write_text(f"{HEADER}\n{good}\n{line}\n{good}\n")
    with pytest.raises(DataError, match=rf"t\.csv: {message}"):
        read_csv(Tree(tmp_path / "in"), ["t.csv"])
    (tmp_path / "in" / "t.csv").write_text(f"{HEADER}\n{good}\n{good}\n")
    assert len(read_csv(Tree(tmp_path / "in"), ["t.csv"]).boxes) == 2


def test_missing_columns_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("filename,xmin\n")
    (source,) = CsvFormat().detect(Tree(tmp_path))
    assert source.problem.startswith("t.csv: its header lacks columns")
    with pytest.raises(DataError, match=r"t\.csv: its header lacks columns .*name: class, label"):
        read_csv(Tree(tmp_path), ["t.csv"])


@settings(max_examples=50, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text(',;"a.png0123\n\r\t\0', max_size=60).map(str.encode)), st.booleans())
def test_nothing_but_data_errors(content: bytes, headed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made.image(Path(folder) / "a.png")
        (Path(folder) / "t.csv").write_bytes(f"{HEADER}\n".encode() * headed + content)
        CsvFormat().detect(Tree(Path(folder)))
        with suppress(DataError):
            read_csv(Tree(Path(folder)), ["t.csv"])
