from __future__ import annotations

import os
import pickle
import sys
import types
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.errors import DataError
from detseg.proposals.detectron2 import read_detectron2

BOXES = [np.array([[1, 2, 30, 40], [5, 6, 7, 9.5]], np.float32), np.array([[0, 0, 3, 4]], np.float32)]
CONTENT = {"ids": [12, 7], "boxes": BOXES, "objectness_logits": [np.array([-1, 2.0]), np.array([0.5])], "bbox_mode": 0}


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "float16"])
def test_arrays_of_every_protocol_are_read_and_sorted(tmp_path: Path, protocol: int, dtype: str) -> None:
    content = {**CONTENT, "boxes": [boxes.astype(dtype) for boxes in BOXES]}
    found = read_detectron2(write(tmp_path / "a.pkl", content, protocol))
    assert list(found) == ["12", "7"]
    assert found["12"].tolist() == [[5, 6, 7, 9.5], [1, 2, 30, 40]]
    assert found["7"].tolist() == [[0, 0, 3, 4]]
    assert found["7"].dtype == np.float32


def test_other_containers_do_as_well(tmp_path: Path) -> None:
    many = np.empty(2, dtype=object)
    many[:] = BOXES
    content = {
        "ids": [np.int64(12), np.int64(7)],
        "boxes": many,
        "objectness_logits": ([-1, 2.0], [0.5]),
    }
    found = read_detectron2(write(tmp_path / "a.pkl", content))
    assert found["12"].tolist() == [[5, 6, 7, 9.5], [1, 2, 30, 40]]
    turned = {**CONTENT, "boxes": [np.asfortranarray(boxes) for boxes in BOXES], "ids": np.array([12, 7])}
    assert read_detectron2(write(tmp_path / "b.pkl", turned))["12"].tolist() == found["12"].tolist()


def test_corner_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mode as detectron2 itself pickles it: a member of its enumeration, which is not there when it is read."""
    module = types.ModuleType("detectron2.structures.boxes")
    mode = IntEnum("BoxMode", {"XYXY_ABS": 0, "XYWH_ABS": 1}, module=module.__name__)
    module.BoxMode = mode  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "detectron2", types.ModuleType("detectron2"))
    monkeypatch.setitem(sys.modules, "detectron2.structures", types.ModuleType("detectron2.structures"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    file = write(tmp_path / "a.pkl", {**CONTENT, "bbox_mode": mode.XYWH_ABS})
    monkeypatch.undo()
    assert "detectron2" not in sys.modules
    assert read_detectron2(file)["12"].tolist() == [[5, 6, 12, 15.5], [1, 2, 31, 42]]


class Call:
    """Pickled, it calls a function when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_nothing_that_it_names_is_run(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "run"
    for number, call in enumerate(
        (
            Call(os.system, f"touch {marker}"),
            Call(eval, f"open({str(marker)!r}, 'w')"),
            Call(np.load, str(marker)),
            Call(getattr, np.zeros(1), "tofile"),
            Call(np.array(1).__class__.tofile, np.zeros(1), str(marker)),
        )
    ):
        file = write(tmp_path / f"{number}.pkl", {**CONTENT, "extra": call}, protocol)
        with pytest.raises(DataError, match=r"only numpy arrays and plain containers"):
            read_detectron2(file)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list"),
        ({"boxes": BOXES}, "no list of 'ids'"),
        ({**CONTENT, "ids": [1]}, r"are of \[1, 2, 2\] images"),
        ({**CONTENT, "bbox_mode": 4}, "bbox_mode is 4"),
        ({**CONTENT, "objectness_logits": [[1], [1]]}, "image 12: its boxes or logits"),
        ({**CONTENT, "boxes": [[["x"] * 4] * 2, BOXES[1]]}, "image 12: its boxes or logits"),
        ({**CONTENT, "boxes": [BOXES[0] * np.nan, BOXES[1]]}, "image 12: a box has a value that is no number"),
        ({**CONTENT, "boxes": [np.array([["a" * 4] * 4] * 2), BOXES[1]]}, "an array of U4"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: Any, message: str) -> None:
    file = write(tmp_path / "a.pkl", content)
    with pytest.raises(DataError, match=f"^{file}: .*{message}"):
        read_detectron2(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.pkl: cannot read"):
        read_detectron2(tmp_path / "none.pkl")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_broken_file_is_an_error_of_ours_or_is_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(pickle.dumps(CONTENT, data.draw(st.integers(0, 5))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "broken.pkl"
    file.write_bytes(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    try:
        read_detectron2(file)
    except DataError as error:
        message = str(error)
    else:
        message = str(file)
    assert message.startswith(str(file))
