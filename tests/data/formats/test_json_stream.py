from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.data.formats.coco.json_stream import read_lists

NAMES = ("images", "annotations")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=[]), max_size=9)
    | st.sampled_from(["},{", "a},", "[{", '\\"}', "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | st.just("},{"), inner, max_size=4)
    ),
    max_leaves=12,
)
ENTRIES = st.lists(st.dictionaries(st.sampled_from(["id", "bbox", "}"]), VALUES, max_size=3) | VALUES, max_size=30)
DOCUMENTS = st.dictionaries(st.sampled_from([*NAMES, "info", "other"]), ENTRIES, max_size=4)


def read(file: Path, window: int) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for name, values in read_lists(file, NAMES, window):
        found.setdefault(name, []).extend(values)
    return found


@settings(deadline=None, max_examples=60)
@given(DOCUMENTS, st.integers(1, 200), st.booleans(), st.sampled_from([None, 1]))
def test_lists_are_those_of_json(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any], window: int, ascii: bool, indent: int | None
) -> None:
    file = tmp_path_factory.getbasetemp() / "a.json"
    text = json.dumps(content, ensure_ascii=ascii, indent=indent)
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert read(file, window) == {name: values for name, values in json.loads(text).items() if name in NAMES}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(['{"images":', "[", "]", "{", "}", ",", "1", "2.5", '"a"', ":", " ", "NaN", "\x00"])))
def test_what_is_broken_raises(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    file = tmp_path_factory.getbasetemp() / "b.json"
    file.write_text("".join(parts))
    try:
        content = json.loads(file.read_text())
    except ValueError:
        content = None
    if isinstance(content, dict) and isinstance(content.get("images", []), list) and '"a":' not in "".join(parts):
        assert repr(read(file, 2).get("images")) == repr(content.get("images"))
    elif content is None or not isinstance(content, dict):
        with pytest.raises(ValueError):  # noqa: PT011
            read(file, 2)


@pytest.mark.parametrize("window", [1, 40, 4000])
def test_not_a_number_and_objects_in_objects(tmp_path: Path, window: int) -> None:
    entries = [{"id": i, "area": float("inf"), "parts": [{"a": "},{"}, {"b": i}]} for i in range(30)]
    content = {"images": [{"parts": [{"a": 1}, {"b": 2}], "id": i} for i in range(90)], "annotations": entries}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read(tmp_path / "a.json", window) == content


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"images": 3}', '{"images": [1,]}', '{"images": [], "images": []}', '{"a": 1} 2', "\ufeff{}"],
)
def test_what_it_leaves_to_others_raises(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError):  # noqa: PT011
        read(tmp_path / "a.json", 3)
