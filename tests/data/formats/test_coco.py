from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO as Reference

from detseg.data import COCO, VOC
from detseg.data.annotations.issues import IssueCollector
from detseg.data.formats.coco.layout import find_annotations, find_images, find_only_annotations
from detseg.data.formats.coco.reader import read_coco
from detseg.errors import DataError
from tests.data import made

IMAGES = [
    {"id": 9, "file_name": "b.jpg", "height": 30, "width": 40},
    {"id": 4, "file_name": "a.jpg", "height": 50, "width": 60},
    {"id": 7, "file_name": "c.jpg", "height": 10, "width": 10},
]
OBJECTS = [
    {"id": 1, "image_id": 9, "category_id": 5, "bbox": [1, 2, 3.5, 4], "area": 9.5, "iscrowd": 1},
    {"id": 2, "image_id": 4, "category_id": 2, "bbox": [10, 20, 30, 10], "area": 100},
    {"id": 3, "image_id": 9, "category_id": 2, "bbox": [0, 0, 40, 30], "segmentation": [[0, 0, 40, 0, 40, 30]]},
]
NAMES = {5: "dog", 2: "cat", 90: "never seen"}


def test_fields(tmp_path: Path) -> None:
    found = read_coco(made.coco(tmp_path / "a.json", IMAGES, OBJECTS, NAMES), tmp_path)
    assert found.classes == ("cat", "dog", "never seen")
    assert found.category_ids == (2, 5, 90)
    assert found.image_ids.tolist() == [4, 7, 9]
    assert found.files.tolist() == ["a.jpg", "c.jpg", "b.jpg"]
    assert found.sizes.tolist() == [[50, 60], [10, 10], [30, 40]]
    assert found.offsets.tolist() == [0, 1, 1, 3]
    assert found.ids.tolist() == [2, 1, 3]
    assert found.boxes.tolist() == [[10, 20, 40, 30], [1, 2, 4.5, 6], [0, 0, 40, 30]]
    assert found.labels.tolist() == [0, 1, 0]
    assert found.areas.tolist() == [100, 9.5, 1200]
    assert found.crowd.tolist() == [False, True, False]
    assert not found.difficult.any()
    assert found.path(0) == tmp_path / "a.jpg"


def agrees(file: Path, images: Path) -> None:
    """Compare with pycocotools, object by object."""
    reference, found = Reference(str(file)), read_coco(file, images)
    assert found.image_ids.tolist() == sorted(reference.getImgIds())
    assert found.category_ids == tuple(sorted(reference.getCatIds()))
    for i, number in enumerate(found.image_ids.tolist()):
        entries = reference.imgToAnns[number]
        objects = found.objects(i)
        assert found.ids[objects].tolist() == [entry["id"] for entry in entries]
        assert [found.category_ids[label] for label in found.labels[objects]] == [e["category_id"] for e in entries]
        assert found.crowd[objects].tolist() == [bool(entry["iscrowd"]) for entry in entries]
        assert np.allclose(found.areas[objects], [entry["area"] for entry in entries])
        boxes = np.array([entry["bbox"] for entry in entries]).reshape(-1, 4)
        expected = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        assert np.array_equal(found.boxes[objects], expected)
    info = {entry["id"]: entry for entry in reference.dataset["images"]}
    assert found.files.tolist() == [info[number]["file_name"] for number in found.image_ids.tolist()]


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("tiny_coco/annotations/instances_train2017.json", "tiny_coco/train2017"),
        ("tiny_coco/annotations/instances_val2017.json", "tiny_coco/val2017"),
        ("coco_rle_sample/annotations.json", "coco_rle_sample/images"),
        ("nuts_coco/trainval.json", "nuts_coco/images"),
    ],
)
def test_agrees_with_pycocotools_on_real_files(shared_data: Path, file: str, images: str) -> None:
    agrees(shared_data / file, shared_data / images)


def test_no_objects_and_no_images(tmp_path: Path) -> None:
    assert len(read_coco(made.coco(tmp_path / "a.json", IMAGES, [], NAMES), tmp_path).boxes) == 0
    assert len(read_coco(made.coco(tmp_path / "a.json", [], [], NAMES), tmp_path)) == 0


def test_ids_may_be_text_and_sizes_missing(tmp_path: Path) -> None:
    made.image(tmp_path / "a.png", 33, 44)
    images = [{"id": "x-1", "file_name": "a.png"}]
    objects = [{"id": 1, "image_id": "x-1", "category_id": 1, "bbox": [0, 0, 99, 99]}]
    found = read_coco(made.coco(tmp_path / "a.json", images, objects, {1: "cat"}), tmp_path)
    assert found.image_ids.tolist() == ["x-1"]
    assert found.sizes.tolist() == [[33, 44]]


def test_annotations_of_images_not_listed_are_left_out_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = read_coco(made.coco(tmp_path / "a.json", IMAGES[:1], OBJECTS, NAMES), tmp_path)
    assert found.ids.tolist() == [1, 3]
    assert "a.json: 1 labels of images that are not listed (image-unknown)" in caplog.text


@pytest.mark.parametrize(
    ("categories", "classes"),
    [
        ([(0, "_background_", None), (1, "cat", None)], ("cat",)),
        ([(0, "pets", "none"), (1, "cat", "pets"), (2, "dog", "pets")], ("cat", "dog")),
        ([(0, "cat", "pets"), (1, "dog", "pets")], ("cat", "dog")),  # numbered from 0: no placeholder
        ([(0, "bird", None), (1, "cat", None)], ("bird", "cat")),
    ],
)
def test_only_a_clear_placeholder_is_no_class(
    tmp_path: Path, categories: list[tuple[int, str, str | None]], classes: tuple[str, ...]
) -> None:
    entries = [{"id": number, "name": name, "supercategory": parent} for number, name, parent in categories]
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"images": IMAGES, "annotations": [], "categories": entries}))
    assert read_coco(file, tmp_path).classes == classes


def test_a_placeholder_that_is_used_is_a_class(tmp_path: Path) -> None:
    objects = [{"id": 1, "image_id": 9, "category_id": 0, "bbox": [1, 2, 3, 4]}]
    found = read_coco(made.coco(tmp_path / "a.json", IMAGES, objects, {0: "background", 1: "cat"}), tmp_path)
    assert found.classes == ("background", "cat")


def without(entry: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [OBJECTS[0], without(OBJECTS[1], "bbox")]}, r"annotations\[1\] \(id 2\) has bbox = None"),
        ({"annotations": [OBJECTS[0] | {"bbox": [1, 2, 3]}]}, r"annotations\[0\] \(id 1\) has bbox = \[1, 2, 3\]"),
        ({"annotations": [OBJECTS[0] | {"bbox": [1, 2, 3, None]}]}, "bbox"),
        ({"annotations": [OBJECTS[0] | {"bbox": [1, 2, 3, float("nan")]}]}, "bbox"),
        ({"annotations": [OBJECTS[0] | {"bbox": [1, 2, 3, "wide"]}]}, "bbox"),
        ({"annotations": [OBJECTS[0] | {"category_id": 3}]}, "annotation 1 has category_id 3"),
        ({"annotations": [OBJECTS[0] | {"category_id": "dog"}]}, r"\(id 1\) has category_id = 'dog'"),
        ({"annotations": [without(OBJECTS[0], "image_id")]}, r"\(id 1\) has image_id = None"),
        ({"annotations": None}, "no list of 'annotations'"),
        ({"annotations": [[]]}, "no list of 'annotations'"),
        ({"images": [IMAGES[0], without(IMAGES[1], "file_name")]}, r"images\[1\] \(id 4\) has file_name = None"),
        ({"images": [IMAGES[0], IMAGES[0]]}, "more than one image has the id 9"),
        ({"images": [IMAGES[0] | {"height": "tall"}]}, r"images\[0\] \(id 9\) has height = 'tall'"),
        ({"categories": []}, "no categories"),
        ({"categories": [{"id": 1}]}, r"categories\[0\] \(id 1\) has name = None"),
        ({"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]}, "more than one category .* 'cat'"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = {"images": IMAGES, "annotations": [], "categories": [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}]}
    file = tmp_path / "broken.json"
    file.write_text(json.dumps(content | change))
    with pytest.raises(DataError, match=f"broken.json: .*{message}"):
        read_coco(file, tmp_path)


@pytest.mark.parametrize("content", ["", '{"images": [', "[]", "\x00", "[" * 200_000])
def test_broken_json_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "broken.json").write_text(content)
    with pytest.raises(DataError, match=r"broken\.json"):
        read_coco(tmp_path / "broken.json", tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.json"):
        read_coco(tmp_path / "absent.json", tmp_path)


@pytest.mark.parametrize(
    ("files", "images"),
    [
        (("annotations/instances_train2017.json", "annotations/instances_val2017.json"), ("train2017", "val2017")),
        (("annotations/instances_train.json", "annotations/instances_test.json"), ("images/train", "images/test")),
        (("annotations/instances_train.json", "annotations/instances_val.json"), ("images", "images")),
        (("train.json", "val.json"), ("train", "val")),
        (("train.json", "validation.json"), (".", ".")),
        (("train/_annotations.coco.json", "valid/_annotations.coco.json"), ("train", "valid")),
        (("annotations/my_train.json", "annotations/my_val.json"), ("my_train", "my_val")),
    ],
)
def test_usual_layouts_are_found(tmp_path: Path, files: tuple[str, str], images: tuple[str, str]) -> None:
    for file, folder in zip(files, images, strict=True):
        made.simple_coco(tmp_path / file, tmp_path / folder)
        (tmp_path / file).with_name(f"captions_{Path(file).name.replace('instances_', '')}").write_text("{}")
    if "annotations/my_train.json" in files or not files[0].startswith("annotations"):
        for captions in tmp_path.rglob("captions_*"):
            captions.unlink()  # told apart only by the word instances
    for split, file, folder in zip(("train", "val"), files, images, strict=True):
        found = find_annotations(tmp_path, split)
        assert found == tmp_path / file
        assert find_images(tmp_path, found, split) == tmp_path / folder


def test_words_are_whole_words(tmp_path: Path) -> None:
    made.simple_coco(tmp_path / "trainval.json", tmp_path / "images")
    (tmp_path / "training_evaluation").mkdir()
    assert find_annotations(tmp_path, "train") is None
    assert find_annotations(tmp_path, "val") is None
    assert find_only_annotations(tmp_path) == tmp_path / "trainval.json"
    assert find_images(tmp_path, tmp_path / "trainval.json", None) == tmp_path / "images"


def test_what_is_not_clear_is_asked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no COCO annotations"):
        find_only_annotations(tmp_path)
    for name in ("one.json", "two.json", "train_a.json", "train_b.json"):
        made.simple_coco(tmp_path / name, tmp_path / "images")
    with pytest.raises(DataError, match=r"one.json.*two.json.*give `split."):
        find_only_annotations(tmp_path)
    with pytest.raises(DataError, match=r"train_a.json.*train_b.json.*split.train='FILE'"):
        find_annotations(tmp_path, "train")
    (tmp_path / "images" / "0.png").unlink()
    with pytest.raises(DataError, match=r"one.json: cannot find its images: no 0.png .*format\.images\.train='FOLDER'"):
        find_images(tmp_path, tmp_path / "one.json", None)


def test_no_annotation_of_a_listed_image(tmp_path: Path) -> None:
    texts = [{**entry, "image_id": str(entry["image_id"])} for entry in OBJECTS]
    with pytest.raises(DataError, match=r"a.json: no annotation .* image_id such as '9', the images 4"):
        read_coco(made.coco(tmp_path / "a.json", IMAGES, texts, NAMES), tmp_path)


def test_a_backslash_in_a_file_name(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": [{"file_name": "images\\a.png"}]}')
    with pytest.raises(DataError, match=r"a.json: broken JSON: file_name .*backslash must be doubled"):
        find_images(tmp_path, tmp_path / "a.json", None)


def test_a_missing_annotation_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent.json: cannot read this annotation file"):
        find_images(tmp_path, tmp_path / "absent.json", "train")


def test_a_supercategory_that_is_a_list(tmp_path: Path) -> None:
    file = made.coco(tmp_path / "a.json", IMAGES, OBJECTS, NAMES)
    content = json.loads(file.read_text())
    content["categories"][0]["supercategory"] = ["animal", "pet"]
    file.write_text(json.dumps(content))
    assert read_coco(file, tmp_path).classes == ("cat", "dog", "never seen")


def test_the_other_format_is_suggested(tmp_path: Path) -> None:
    made.voc(tmp_path / "voc", "a", made.box("cat", 1, 1, 9, 9))
    made.simple_coco(tmp_path / "coco" / "train.json", tmp_path / "coco" / "train")
    (tmp_path / "neither").mkdir()
    with pytest.raises(DataError, match=r"looks like VOC: `format='VOC'`"):
        COCO(str(tmp_path / "voc")).read("train")
    with pytest.raises(DataError, match=r"looks like COCO: `format='COCO'`"):
        VOC(str(tmp_path / "coco")).read("train")
    for data in (COCO, VOC):
        with pytest.raises(DataError) as raised:
            data(str(tmp_path / "neither")).read("train")
        assert "looks like" not in str(raised.value)


def test_difficult_may_mean_anything(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = [None, "no", {}, [1], 0, 1, True, 2.5, "1", float("nan"), 10**400]
    entries = [
        {"id": i, "image_id": 9, "category_id": 1, "bbox": [1, 1, 9, 9], "difficult": value}
        for i, value in enumerate(values)
    ]
    made.image(tmp_path / "a.png")
    images = [{"id": 9, "file_name": "a.png", "height": 48, "width": 64}]
    file = made.coco(tmp_path / "a.json", images, entries, {1: "cat"})
    with caplog.at_level(logging.INFO):
        found = read_coco(file, tmp_path)
    assert found.difficult.tolist() == [False] * 5 + [True] * 4 + [False] * 2
    assert "a.json: 4 objects are difficult or to be ignored, and are not trained on" in caplog.text
    collector = IssueCollector()
    assert len(read_coco(file, tmp_path, issues=collector).labels) == len(values)
    assert {issue.kind for issue in collector.issues} == {"object-doubled", "flag-unknown"}
