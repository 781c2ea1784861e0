"""The issues of real data sets, as read from their files, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detseg.data.formats.voc.semantic import VocSemanticFormat
from detseg.data.formats.yolo import YoloFormat
from tests.check.test_checking import kinds, look

BOXES = {"format": YoloFormat("labels_yolo_box", "object_detection.yaml")}
POLYGONS = {"format": YoloFormat("labels_yolo_seg", "instance_segmentation.yaml")}


@pytest.mark.parametrize(
    ("name", "where", "expected"),
    [
        ("raccoon", {}, {"duplicate": 4}),
        ("bccd", {}, {"box-area": 2}),
        ("voc2012_mini", {"format": "VOC"}, {}),
        ("voc2012_mini", {"format": YoloFormat(names="voc.names")}, {}),
        ("tiny_coco", {}, {}),
        ("coco_rle_sample", {}, {}),
        ("coco128_train", BOXES, {"label-missing": 2, "label-stray": 2, "split-conflict": 1}),  # without val2017
        ("coco128_train", POLYGONS, {"label-missing": 28, "box-tiny": 1, "split-conflict": 1}),  # 0.96 pixels wide
        ("coco128_train", {"format": "COCO"}, {}),
        ("nuts_coco", {}, {}),
        ("fridge_voc", {}, {}),
        ("voc2011_seg_mini", {"format": "COCO"}, {}),
        ("voc2011_seg_mini", {"format": "VOC"}, {"mask-broken": 2}),  # 12 masks of 9 boxes
        ("voc2011_seg_mini", {"format": VocSemanticFormat()}, {}),
        ("voc2012_seg_icevision", {}, {}),
        ("camvid", {}, {}),
    ],
)
def test_issues_of(shared_data: Path, name: str, where: dict[str, Any], expected: dict[str, int]) -> None:
    assert kinds(look(shared_data / name, decode=name != "bccd", **where)) == expected


def test_what_they_are(shared_data: Path) -> None:
    pairs = {
        tuple(sorted(Path(path).stem.removeprefix("raccoon-") for path in issue.message.split(": the same as ")))
        for issue in look(shared_data / "raccoon").of_kind("duplicate")
    }
    assert pairs == {("11", "116"), ("120", "83"), ("52", "74"), ("65", "98")}
    result = look(shared_data / "bccd")
    assert {Path(issue.file).stem for issue in result.of_kind("box-area")} == {"BloodImage_00338", "BloodImage_00343"}
    assert {issue.annotation for issue in result.of_kind("class-unbalanced")} == {"WBC", "Platelets"}
    result = look(shared_data / "tiny_coco")
    assert len(result.of_kind("image-empty")) == 1 + 2
    (bird,) = look(shared_data / "voc2012_mini", format="VOC").of_kind("class-unseen")
    assert bird.message == "class 'bird' has 6 objects, but none in train"
