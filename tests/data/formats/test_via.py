"""VIA's JSON as its versions 1, 2 and 3 write it."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import IssueCollector
from detseg.data.formats.format_detection import detect_source
from detseg.data.formats.via import ViaFormat
from detseg.errors import DataError
from tests.data import made

RECT = {"name": "rect", "x": 4, "y": 6, "width": 20, "height": 30}
SHAPES: list[dict[str, Any]] = [
    RECT,
    {"name": "polygon", "all_points_x": [1, 11, 1], "all_points_y": [2, 2, 22]},
    {"name": "circle", "cx": 20, "cy": 20, "r": 5},
    {"name": "ellipse", "cx": 30, "cy": 20, "rx": 10, "ry": 4, "theta": 1.5707963},
    {"name": "polyline", "all_points_x": [1, 11], "all_points_y": [2, 2]},
    {"name": "point", "cx": 3, "cy": 3},
]
BOXES = [[4, 6, 24, 36], [1, 2, 11, 22], [15, 15, 25, 25], [26, 10, 34, 30]]
AREAS = [600, 100, 25 * math.pi, 40 * math.pi]


def region(shape: Any, **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes}


def entry(name: str, regions: Any) -> dict[str, Any]:
    return {"fileref": "", "size": 62201, "filename": name, "base64_img_data": "", "file_attributes": {}} | {
        "regions": regions
    }


def via(root: Path, content: Any, name: str = "via_export_json.json") -> Path:
    made.image(root / "a.jpg")
    made.image(root / "b.jpg", seed=1)
    file = root / name
    file.write_text(json.dumps(content))
    return file


def check(table: DetectionAnnotations, caplog: pytest.LogCaptureFixture) -> None:
    assert (table.classes, table.labels.tolist()) == (("cat", "dog"), [0, 1, 1, 1])
    assert table.offsets.tolist() == [0, 4, 4]
    assert table.boxes.tolist() == [pytest.approx(box, abs=1e-5) for box in BOXES]
    assert table.areas.tolist() == pytest.approx(AREAS)
    assert table.masks is not None
    assert table.masks.mask_types.tolist() == [0, 1, 1, 1]
    for shape in ("polyline", "point"):
        assert f"1 regions of the shape {shape} are left out" in caplog.text


@pytest.mark.parametrize("version", [1, 2])
def test_versions_1_and_2(tmp_path: Path, caplog: pytest.LogCaptureFixture, version: int) -> None:
    names = ["cat", *["dog"] * 5]
    regions: Any = [region(shape, kind=name, note="") for shape, name in zip(SHAPES, names, strict=True)]
    if version == 1:
        regions = {str(number): one for number, one in enumerate(regions)}
    content: dict[str, Any] = {"a.jpg62201": entry("a.jpg", regions), "b.jpg1": entry("https://x.org/p/b.jpg?s=1", {})}
    if version == 2:
        content = {"_via_settings": {}, "_via_img_metadata": content, "_via_attributes": {"region": {}, "file": {}}}
    via(tmp_path, content)
    with caplog.at_level(logging.WARNING):
        source = detect_source(tmp_path)
        assert source.format.name == "VIA"
        check(source.read("all", "any"), caplog)
    issues = IssueCollector()
    source.read("all", "none", issues)
    assert [issue.kind for issue in issues.issues] == ["shape-unsupported"] * 2


def test_version_3(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shapes = [
        [2, 4, 6, 20, 30],
        [7, 1, 2, 11, 2, 1, 22],
        [3, 20, 20, 5],
        [4, 30, 20, 4, 10],
        [6, 1, 2, 11, 2],
        [1, 3, 3],
    ]
    attribute = {"aname": "kind", "anchor_id": "FILE1_Z0_XY1", "type": 4, "options": {"c": "cat", "d": "dog"}}
    content = {
        "project": {"pid": "__VIA_PROJECT_ID__", "data_format_version": "3.1.1", "vid_list": ["1", "2"]},
        "config": {},
        "attribute": {"1": attribute},
        "file": {
            "1": {"fid": "1", "fname": "a.jpg", "type": 2, "loc": 1, "src": ""},
            "2": {"fid": "2", "fname": "b.jpg", "type": 2, "loc": 1, "src": ""},
        },
        "metadata": {
            f"1_{number}": {"vid": "1", "flg": 0, "z": [], "xy": xy, "av": {"1": "d" if number else "c"}}
            for number, xy in enumerate(shapes)
        }
        | {"1_whole": {"vid": "1", "flg": 0, "z": [], "xy": [], "av": {}}},
        "view": {"1": {"fid_list": ["1"]}, "2": {"fid_list": ["2"]}},
    }
    via(tmp_path, content)
    with caplog.at_level(logging.WARNING):
        check(detect_source(tmp_path).read("all", "any"), caplog)


def test_several_attributes_are_named_and_one_is_chosen(tmp_path: Path) -> None:
    via(tmp_path, {"a": entry("a.jpg", [region(RECT, kind="cat", colour={"red": True, "blue": False})])})
    with pytest.raises(DataError, match=r"have the attributes colour, kind; choose .* `format\.attribute='NAME'`"):
        detect_source(tmp_path).read("all")
    assert detect_source(tmp_path, ViaFormat("kind")).read("all").classes == ("cat",)
    assert detect_source(tmp_path, ViaFormat("colour")).read("all").classes == ("red",)


def test_regions_without_attributes_are_objects(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "val"):  # as the balloons of the Matterport tutorial lie
        via(tmp_path / split, {"a": entry("a.jpg", {"0": region(RECT)})}, "via_region_data.json")
    assert detect_source(tmp_path).read("train").classes == ("object",)
    assert "are of the class 'object'" in caplog.text


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (region(RECT), "has kind = None"),
        (region(RECT | {"x": "left"}, kind="cat"), r"has x, y, width and height \['left', 6, 20, 30\]"),
        (region({"name": "polygon", "all_points_x": [1, 2]}, kind="cat"), "has y"),
        (region({"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1, 2]}, kind="cat"), "has 2 x and 2 y"),
        (region(RECT, kind={"cat": True, "dog": True}), r"has kind = \['cat', 'dog'\]"),
    ],
)
def test_broken_regions_are_named(tmp_path: Path, broken: Any, message: str) -> None:
    good = region(RECT, kind="cat")
    file = via(tmp_path, {"a": entry("a.jpg", [good, broken, good])})
    with pytest.raises(DataError, match=rf"{file}: image 'a\.jpg': region 2 {message}"):
        detect_source(tmp_path).read("all")


def test_broken_files_are_named(tmp_path: Path) -> None:
    file = via(tmp_path, {"a": entry("a.jpg", [])})
    source = detect_source(tmp_path)
    file.write_text(json.dumps({"a": entry("a.jpg", [{}])}))
    with pytest.raises(DataError, match=rf"{file}: not a project or export of VIA: KeyError 'shape_attributes'"):
        source.read("all")
    file.write_text(file.read_text()[:-9])
    with pytest.raises(DataError, match=rf"{file}: broken JSON"):
        source.read("all")
    file.write_text(json.dumps({"a": entry("c.jpg", [])}))
    with pytest.raises(DataError, match=rf"{file}: no image 'c\.jpg'"):
        source.read("all")
