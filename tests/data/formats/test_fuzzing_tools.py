"""Whatever is in a file of an annotation tool or a public set, its reader takes it or names it in an error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data import made
from tests.data.formats import test_cvat, test_label_studio, test_public_sets, test_via
from tests.data.formats.test_fuzzing import CUTS, SETTINGS, VALUES, changed, replaced, take

MASK = '<mask label="cat" rle="0, 2, 1, 1" left="3" top="4" width="2" height="2" z_order="0"></mask>'
KEYS = test_cvat.at(10, 0) + test_cvat.at(12, 4, 'outside="1"')
TRACK = f'<track id="0" label="dog">{KEYS}</track><track id="1" label="cat">{test_cvat.at(11, 4)}</track>'
BRUSH = {"format": "rle", "rle": test_label_studio.BRUSH, "brushlabels": ["dog"]}
RESULTS = [test_label_studio.rectangle(12.5, 25, 25, 50, 10), test_label_studio.result("brushlabels", BRUSH)]
VIA_3 = {
    "project": {"vid_list": ["1"]},
    "attribute": {"1": {"aname": "kind", "options": {"c": "cat"}}},
    "file": {"1": {"fname": "a.png", "src": ""}},
    "metadata": {"1_a": {"vid": "1", "z": [], "xy": [2, 4, 6, 20, 30], "av": {"1": "c"}}},
    "view": {"1": {"fid_list": ["1"]}},
}
JSONS: dict[str, tuple[str, Any]] = {
    "VIA": ("VIA", {"a": test_via.entry("a.png", [test_via.region(shape, kind="cat") for shape in test_via.SHAPES])}),
    "VIA 3": ("VIA", VIA_3),
    "LabelStudio": (
        "LabelStudio",
        [test_label_studio.task(1, "/data/upload/1/a.png", test_label_studio.annotation(*RESULTS))],
    ),
    "CreateML": (
        "CreateML",
        [{"image": "a.png", "annotations": [{"label": "c", "coordinates": {"x": 9, "y": 9, "width": 4, "height": 4}}]}],
    ),
}
TEXTS: dict[str, tuple[str, str, bytes]] = {
    "KITTI": ("KITTI", "label_2/a.txt", f"{test_public_sets.CAR}\n{test_public_sets.DONT_CARE}\n".encode()),
    "VisDrone": ("VisDrone", "annotations/a.txt", b"4,6,20,30,1,4,0,0\n3,3,9,9,0,0,1,2\n"),
    "WIDERFACE": ("WIDERFACE", "wider_face_train_bbx_gt.txt", b"0--P/a.png\n1\n4 6 20 30 0 0 0 0 0 0\n"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    for name in ("a", *(f"frame_{frame:06d}" for frame in (10, 11, 12))):
        made.image(folder / "images" / f"{name}.png", seed=len(name))
    return folder


def write(root: Path, name: str, content: bytes) -> None:
    for file in root.glob("*.*"):
        file.unlink()
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(content)


@SETTINGS
@given(path=st.lists(st.integers(0, 9), max_size=9), value=VALUES, key=st.sampled_from([None, "drop"]))
@pytest.mark.parametrize("name", JSONS)
def test_json(root: Path, name: str, path: list[int], value: Any, key: str | None) -> None:
    format, content = JSONS[name]
    write(root, "labels.json", json.dumps(replaced(content, path, value, key)).encode())
    take(root, format, "any")


@SETTINGS
@given(cuts=st.lists(CUTS, min_size=1, max_size=3))
@pytest.mark.parametrize("name", TEXTS)
def test_texts(root: Path, name: str, cuts: list[tuple[float, int, bytes]]) -> None:
    format, file, content = TEXTS[name]
    write(root, file, changed(content, cuts))
    take(root, format)
    (root / file).unlink()


@SETTINGS
@given(cuts=st.lists(CUTS, min_size=1, max_size=3))
@pytest.mark.parametrize("video", [False, True])
def test_the_text_of_cvat(root: Path, cuts: list[tuple[float, int, bytes]], video: bool) -> None:
    shapes = f'<image id="0" name="a.png" width="64" height="48">{test_cvat.BOX}{MASK}</image>'
    file = test_cvat.cvat(root, TRACK if video else shapes)
    write(root, file.name, changed(file.read_bytes(), cuts))
    take(root, "CVAT", "any")


ATTRIBUTES = ("xtl", "rotation", "rle", "left", "width", "label", "frame", "outside")


@SETTINGS
@given(
    attribute=st.sampled_from(ATTRIBUTES), value=st.one_of(VALUES.map(str), st.text(st.characters(min_codepoint=32)))
)
def test_attributes_of_cvat(root: Path, attribute: str, value: str) -> None:
    shapes = f'<image id="0" name="a.png" width="64" height="48">{test_cvat.BOX}{MASK}</image>{TRACK}'
    text = f"{attribute}={quoteattr(value)}"
    body = re.sub(f'{attribute}="[^"]*"', lambda _: text, shapes, count=1)
    write(root, "labels.txt", b"")
    test_cvat.cvat(root, body)
    take(root, "CVAT", "any")
