"""Whatever is in a label file, a reader takes it or raises an error of ours that names a file: nothing else, ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from detseg.data import SemanticAnnotations
from detseg.data.annotations.issues import FAIL_FAST, IssueCollector
from detseg.data.formats.format_detection import open_source
from detseg.errors import DetsegError
from tests.data import made

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", "nan", "1e999", "../../x.png", "\x00", "/", "0.png", 0, -1, 1e308, 2**31, 2**63]),
    st.lists(st.integers(-3, 90), max_size=8),
    st.dictionaries(st.text(max_size=3), st.integers(0, 3), max_size=2),
)
VALUES = st.recursive(ODD, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
SCRAPS = [
    *(b"nan", b"inf", b"-1e400", b"<", b"&x;", b"<!DOCTYPE a [<!ENTITY x 'y'>]>", b"\xff\xfe", b"\x00", b'"', b"{"),
    *(b"[" * 3000, b"!!python/object:os.system", b"*a", b"&a [*a]", b"999999999999999999999", b",,,", b"\n\n"),
    b"0 0 0 0 0 0 0",
]
CUTS = st.tuples(st.floats(0, 1), st.integers(0, 12), st.one_of(st.binary(max_size=8), st.sampled_from(SCRAPS)))


def take(root: Path, format: str = "auto", masks: Any = "none", task: Any = "detection") -> None:
    """Read as training does, and as a check does: an error must name the folder."""
    for issues in (FAIL_FAST, IssueCollector()):
        message = str(root)
        try:
            source = open_source(root, format, task, masks=masks)
            for split in source.splits:
                table = source.read(split, masks, issues)
                if isinstance(table, SemanticAnnotations):
                    table.labels(0, issues)
        except DetsegError as error:
            message = str(error)
        assert str(root) in message


def changed(content: bytes, cuts: list[tuple[float, int, bytes]]) -> bytes:
    """A text, some pieces of which are replaced by others."""
    for place, length, piece in cuts:
        start = int(place * len(content))
        content = content[:start] + piece + content[start + length :]
    return content


def replaced(content: Any, path: list[int], value: Any, key: str | None) -> Any:
    """A copy of JSON's content in which what lies at a path is another value, or is gone where that is a key."""
    if not path or not isinstance(content, dict | list) or not content:
        return value
    if isinstance(content, dict):
        name = sorted(content)[path[0] % len(content)]
        rest = {other: inner for other, inner in content.items() if other != name}
        if key == "drop" and len(path) == 1:
            return rest
        return rest | {name: replaced(content[name], path[1:], value, key)}
    place = path[0] % len(content)
    return [replaced(inner, path[1:], value, key) if at == place else inner for at, inner in enumerate(content)]


COCO_FILE = {
    "images": [{"id": i, "file_name": f"{i}.png", "height": 48, "width": 64} for i in range(2)],
    "annotations": [
        {"id": 1, "image_id": 0, "category_id": 1, "bbox": [4, 6, 20, 30], "segmentation": [[1, 1, 9, 1, 9, 9]]},
        {
            "id": 2,
            "image_id": 1,
            "category_id": 2,
            "bbox": [4, 6, 20, 30],
            "area": 600,
            "iscrowd": 1,
            "segmentation": {"size": [48, 64], "counts": [1000, 50, 2022]},
        },
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog", "supercategory": "animal"}],
}
PATHS = st.lists(st.integers(0, 5), max_size=5)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    for number in range(2):
        made.image(root / "images" / f"{number}.png", seed=number)
    return root


@SETTINGS
@given(path=PATHS, value=VALUES, key=st.sampled_from([None, "drop"]), masks=st.sampled_from(["none", "valid", "all"]))
@example(path=[1, 0, 1], value=[None], key=None, masks="none")  # a name that is a list
@example(path=[2, 0, 0], value="x" * 300, key=None, masks="none")  # one that is too long for a file
def test_coco(coco: Path, path: list[int], value: Any, key: str | None, masks: Any) -> None:
    (coco / "labels.json").write_text(json.dumps(replaced(COCO_FILE, path, value, key)))
    take(coco, "COCO", masks)
    take(coco, "COCO", task="semantic_segmentation")


@SETTINGS
@given(cuts=st.lists(CUTS, min_size=1, max_size=3))
def test_the_text_of_coco(coco: Path, cuts: list[tuple[float, int, bytes]]) -> None:
    (coco / "labels.json").write_bytes(changed(json.dumps(COCO_FILE).encode(), cuts))
    take(coco, "COCO", "valid")


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("voc")
    made.voc(root, "a", made.box("cat", 1, 1, 20, 20) + made.box("dog", 5.5, 6, 30, 40, "<difficult>1</difficult>"))
    made.voc(root, "b", made.box("cat", 1, 1, 20, 20))
    return root


@SETTINGS
@given(cuts=st.lists(CUTS, min_size=1, max_size=3))
def test_voc(voc: Path, cuts: list[tuple[float, int, bytes]]) -> None:
    file = voc / "Annotations" / "a.xml"
    before = file.read_bytes()
    file.write_bytes(changed(before, cuts))
    take(voc, "VOC")
    file.write_bytes(before)


@pytest.fixture(scope="module")
def yolo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("yolo")
    for number, name in enumerate("ab"):
        made.image(root / "images" / f"{name}.png", seed=number)
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{name}.txt").write_text("0 .5 .5 .25 .25\n1 .1 .1 .5 .1 .5 .5\n")
    return root


@SETTINGS
@given(
    names=st.lists(CUTS, max_size=2),
    cuts=st.lists(CUTS, min_size=1, max_size=3),
)
def test_yolo(yolo: Path, names: list[tuple[float, int, bytes]], cuts: list[tuple[float, int, bytes]]) -> None:
    (yolo / "data.yaml").write_bytes(changed(b"path: .\nnames:\n  0: cat\n  1: dog\n", names))
    (yolo / "labels" / "a.txt").write_bytes(changed(b"0 .5 .5 .25 .25\n1 .1 .1 .5 .1 .5 .5\n", cuts))
    take(yolo, "YOLO", "valid")


@pytest.fixture(scope="module")
def labelme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelme")
    for number, name in enumerate("ab"):
        made.image(root / f"{name}.png", seed=number)
    (root / "b.json").write_text(json.dumps({"shapes": [], "imagePath": "b.png"}))
    return root


LABELME_FILE = {
    "imagePath": "a.png",
    "shapes": [
        {"label": "cat", "shape_type": "polygon", "points": [[1, 1], [9, 1], [9, 9]]},
        {"label": "dog", "shape_type": "circle", "points": [[5, 5], [9, 1]]},
        {"label": "dog", "shape_type": "rectangle", "points": [[5, 5], [9, 1]]},
    ],
}


@SETTINGS
@given(path=PATHS, value=VALUES, key=st.sampled_from([None, "drop"]))
def test_labelme(labelme: Path, path: list[int], value: Any, key: str | None) -> None:
    (labelme / "a.json").write_text(json.dumps(replaced(LABELME_FILE, path, value, key)))
    take(labelme, "LabelMe", "valid")


@SETTINGS
@given(cuts=st.lists(CUTS, min_size=1, max_size=3))
def test_the_text_of_labelme(labelme: Path, cuts: list[tuple[float, int, bytes]]) -> None:
    (labelme / "a.json").write_bytes(changed(json.dumps(LABELME_FILE).encode(), cuts))
    take(labelme, "LabelMe", "valid")


@SETTINGS
@given(cuts=st.lists(CUTS, min_size=1, max_size=3))
def test_csv(labelme: Path, cuts: list[tuple[float, int, bytes]]) -> None:
    text = b"filename,class,xmin,ymin,xmax,ymax\na.png,cat,1,1,9,9\nb.png,dog,2.5,1,9,9\nb.png,,,,,\n"
    (labelme / "labels.csv").write_bytes(changed(text, cuts))
    take(labelme, "CSV")


@SETTINGS
@given(cuts=st.lists(CUTS, min_size=1, max_size=2), path=PATHS, value=VALUES)
def test_names_and_maps_of_labels(
    coco: Path, cuts: list[tuple[float, int, bytes]], path: list[int], value: Any
) -> None:
    (coco / "masks").mkdir(exist_ok=True)
    for number in range(2):
        made.image(coco / "masks" / f"{number}.png")
    content = {"classes": ["sky", "road"], "ignore_index": 11}
    (coco / "classes.json").write_text(json.dumps(replaced(content, path, value, None)))
    (coco / "masks" / "1.png").write_bytes(changed((coco / "masks" / "0.png").read_bytes(), cuts))
    take(coco, task="semantic_segmentation")
    (coco / "classes.json").unlink()
