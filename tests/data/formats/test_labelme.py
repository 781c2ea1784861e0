from __future__ import annotations

import json
import math
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.data.formats.labelme import LabelMeFormat, read_labelme
from detseg.data.formats.layout import Tree
from detseg.errors import DataError
from tests.data import made


def shape(label: Any, points: Any, kind: Any = "polygon") -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind}


def labelme(root: Path, stem: str, shapes: Any, image: Any = None) -> Path:
    made.image(root / f"{stem}.png")
    file = root / f"{stem}.json"
    file.write_text(json.dumps({"shapes": shapes, "imagePath": image or f"{stem}.png"}))
    return file


def test_shapes_become_boxes(tmp_path: Path) -> None:
    shapes = [
        shape("dog", [[1, 2], [11, 2], [1, 22]]),
        shape("cat", [[30, 40], [10, 20]], "rectangle"),
        shape("cat", [[20, 20], [23, 24]], "circle"),
        shape("cat", [[3, 3]], "point"),
    ]
    labelme(tmp_path, "a", shapes)
    labelme(tmp_path, "b", [])
    (source,) = LabelMeFormat().detect(Tree(tmp_path))
    annotations = source.read("all")
    assert annotations.classes == ("cat", "dog")
    assert annotations.offsets.tolist() == [0, 3, 3]
    assert annotations.boxes.tolist() == [[1, 2, 11, 22], [10, 20, 30, 40], [15, 15, 25, 25]]
    assert annotations.areas.tolist() == [100, 400, pytest.approx(math.pi * 25)]
    assert annotations.sizes.tolist() == [[48, 64]] * 2


def test_no_path_leads_out_of_the_folder(tmp_path: Path) -> None:
    made.image(tmp_path / "outside.png")
    labelme(tmp_path / "in", "a", [], "..\\..\\outside.png")
    table = read_labelme(Tree(tmp_path / "in"), ["a.json"])
    assert table.files.tolist() == ["a.png"]  # the image beside it, by its stem
    (tmp_path / "in" / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.json: no image"):
        read_labelme(Tree(tmp_path / "in"), ["a.json"])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (3, "is no shape"),
        (shape("", [[0, 0], [1, 1], [2, 0]]), "label = ''"),
        (shape("cat", [[0, 0], [1, 1]]), "2 points, too few"),
        (shape("cat", [[0, 0], [1, "x"], [2, 2]]), "no numbers"),
        (shape("cat", [[0, 0], [1, 1], [2, float("nan")]]), "no numbers"),
        (shape("cat", [[0, 0], [1, 1], [2, 2]], 7), "shape_type = 7"),
    ],
)
def test_broken_shapes_are_named(tmp_path: Path, broken: Any, message: str) -> None:
    good = shape("cat", [[0, 0], [9, 0], [9, 9]])
    labelme(tmp_path, "a", [good, broken, good])
    with pytest.raises(DataError, match=rf"a\.json: shape 2 .*{message}"):
        read_labelme(Tree(tmp_path), ["a.json"])
    labelme(tmp_path, "a", [good, good])
    assert len(read_labelme(Tree(tmp_path), ["a.json"]).boxes) == 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=50, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=40),
        st.fixed_dictionaries({"shapes": VALUES, "imagePath": VALUES}).map(lambda one: json.dumps(one).encode()),
        st.lists(st.fixed_dictionaries({"label": VALUES, "points": VALUES, "shape_type": VALUES}), max_size=2).map(
            lambda shapes: json.dumps({"shapes": shapes}).encode()
        ),
    )
)
def test_nothing_but_data_errors(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made.image(Path(folder) / "a.png")
        (Path(folder) / "a.json").write_bytes(content)
        with suppress(DataError):
            read_labelme(Tree(Path(folder)), ["a.json"])
