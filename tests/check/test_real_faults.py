"""The faults that real data sets have, as a look at the files gives them, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.check.test_checking import kinds, look

YOLO = {"format": "YOLO"}
BOXES = YOLO | {"labels": "labels_yolo_box", "names": "object_detection.yaml"}
POLYGONS = YOLO | {"labels": "labels_yolo_seg", "names": "instance_segmentation.yaml"}


@pytest.mark.parametrize(
    ("name", "where", "expected"),
    [
        ("raccoon", {}, {"duplicate": 4}),
        ("bccd", {}, {"box-area": 2}),
        ("voc2012_mini", {"format": "VOC"}, {}),
        ("voc2012_mini", YOLO | {"names": "voc.names"}, {}),
        ("tiny_coco", {}, {}),
        ("coco_rle_sample", {}, {}),
        ("coco128_train", BOXES, {"label-missing": 2, "label-stray": 2}),
        ("coco128_train", POLYGONS, {"label-missing": 28, "box-tiny": 1}),  # an outline 0.96 pixels wide
        ("coco128_train", {"format": "COCO"}, {}),
        ("nuts_coco", {}, {}),
        ("fridge_voc", {}, {}),
        ("voc2011_seg_mini", {"format": "COCO"}, {}),
        ("voc2011_seg_mini", {"format": "VOC"}, {"mask-broken": 2}),  # 12 masks of 9 boxes
        ("voc2011_seg_mini", {"format": "VOCSegmentation"}, {}),
        ("voc2012_seg_icevision", {}, {}),
        ("camvid", {}, {}),
    ],
)
def test_the_faults_of(shared_data: Path, name: str, where: dict[str, str], expected: dict[str, int]) -> None:
    assert kinds(look(shared_data / name, decode=name != "bccd", **where)) == expected


def test_what_they_are(shared_data: Path) -> None:
    pairs = {
        tuple(sorted(Path(path).stem.removeprefix("raccoon-") for path in fault.text.split(": the same as ")))
        for fault in look(shared_data / "raccoon").of_kind("duplicate")
    }
    assert pairs == {("11", "116"), ("120", "83"), ("52", "74"), ("65", "98")}
    found = look(shared_data / "bccd")
    assert {Path(fault.file).stem for fault in found.of_kind("box-area")} == {"BloodImage_00338", "BloodImage_00343"}
    assert {fault.annotation for fault in found.of_kind("class-unbalanced")} == {"WBC", "Platelets"}
    found = look(shared_data / "tiny_coco")
    assert len(found.of_kind("image-empty")) == 1 + 2
    (bird,) = look(shared_data / "voc2012_mini", format="VOC").of_kind("class-unseen")
    assert bird.text == "class 'bird' has 6 objects, but none in train"
