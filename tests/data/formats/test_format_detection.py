"""Folders as people have them: what they are taken for, and where their images are found."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.formats.format_detection import detect_source
from detseg.data.splits import train_val_split
from detseg.errors import DataError
from detseg.folders import is_path_traversal
from tests.data import made


def whole(root: Path, part: str = "all", format: str = "COCO") -> DetectionAnnotations:
    source = detect_source(root)
    assert source.format.name == format
    return source.read(part)


@pytest.mark.parametrize(
    ("annotations", "folder", "name"),
    [
        ("deep/down/below/labels.json", "deep/pictures/here", "{}"),
        ("labels.json", "a/b", "b/{}"),
        ("json/labels.json", "pictures", "../pictures/{}"),
        ("labels.json", "pictures", "/home/somebody/pictures/{}"),
        ("labels.json", "pictures", "C:\\data\\pictures\\{}"),
        ("labels.json", "pictures", "pictures\\{}"),
    ],
)
def test_coco_in_any_layout(tmp_path: Path, annotations: str, folder: str, name: str) -> None:
    images = []
    for number in range(3):
        made.image(tmp_path / folder / f"{number}.png", seed=number)
        images.append({"id": number, "file_name": name.format(f"{number}.png"), "height": 48, "width": 64})
    objects = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 6, 20, 30]}]
    made.coco(tmp_path / annotations, images, objects, {1: "cat"})
    found = whole(tmp_path)
    assert [found.path(row) for row in range(3)] == [tmp_path / folder / f"{number}.png" for number in range(3)]
    assert found.boxes.tolist() == [[4, 6, 24, 36]]


def test_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    made.image(tmp_path / "secret.png")
    images = [{"id": 1, "file_name": name, "height": 48, "width": 64} for name in ("../secret.png",)]
    made.coco(tmp_path / "mine" / "labels.json", images, [], {1: "cat"})
    with pytest.raises(DataError, match=r"labels\.json: cannot find its images"):
        whole(tmp_path / "mine")
    made.image(tmp_path / "mine" / "a.png")
    entries = [{"id": 2, "file_name": "a.png", "height": 48, "width": 64}, *images]
    made.coco(tmp_path / "mine" / "labels.json", entries, [], {1: "cat"})
    with pytest.raises(DataError, match=r"labels\.json: file_name '\.\./secret\.png' leads out of"):
        whole(tmp_path / "mine")
    assert [is_path_traversal(name) for name in ("a/b", "a/../b", "/a", "c:a", "a\\..\\b", "a..b", "")] == [
        *(False, True, True, True, True, False, False)
    ]


def test_all_parts_of_coco_are_found_and_other_json_is_not_taken_for_it(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "valid", "test")):
        made.simple_coco(tmp_path / split / "_annotations.coco.json", tmp_path / split, number + 1)
    source = detect_source(tmp_path)
    assert {split: len(source.read(split)) for split in source.splits} == {"train": 1, "val": 2, "test": 3}
    one = tmp_path / "one"
    made.image(one / "a.png")
    shape = {"label": "cat", "points": [[1, 2], [11, 22]], "shape_type": "rectangle"}
    (one / "a.json").write_text(json.dumps({"shapes": [shape], "imagePath": "a.png"}))
    assert whole(one, format="LabelMe").boxes.tolist() == [[1, 2, 11, 22]]
    (one / "a.json").write_text("{}")
    with pytest.raises(DataError, match=r"no images, annotations and categories of COCO in a\.json$"):
        detect_source(one)
    (one / "a.json").write_text('{"images": [{"id": 1, "file_na')
    with pytest.raises(DataError, match=r"a\.json: broken JSON: it is cut off: copy it again$"):
        detect_source(one)


@pytest.mark.parametrize("count", [3, 60])
def test_many_files_of_one_image_each_are_not_coco(tmp_path: Path, count: int) -> None:
    for split in ("train", "val"):
        for number in range(count):
            made.image(tmp_path / split / f"{number}.png", seed=number)
            shape = {"label": "cat", "points": [[1, 2], [11, 22]], "shape_type": "rectangle"}
            content = {"shapes": [shape], "imagePath": f"{number}.png"}
            (tmp_path / split / f"{number}.json").write_text(json.dumps(content))
    assert len(whole(tmp_path, "val", "LabelMe")) == count


def test_captions_beside_keypoints_are_not_taken(tmp_path: Path) -> None:
    for split in ("train", "val"):
        made.simple_coco(tmp_path / "annotations" / f"person_keypoints_{split}2017.json", tmp_path / split)
        captions = {"images": [], "annotations": [], "info": {}}
        (tmp_path / "annotations" / f"captions_{split}2017.json").write_text(json.dumps(captions))
    assert len(whole(tmp_path, "val")) == 1
    made.simple_coco(tmp_path / "annotations" / "more_train.json", tmp_path / "train")
    with pytest.raises(DataError, match=r"several files could be the train split: .*more_train\.json"):
        detect_source(tmp_path)


def test_voc_beside_the_images(tmp_path: Path) -> None:
    for split, stem in (("train", "a"), ("train", "b"), ("valid", "c")):
        made.voc(tmp_path / split, stem, made.box("cat", 1.5, 1, 9, 9))
        (tmp_path / split / "JPEGImages" / f"{stem}.jpg").rename(tmp_path / split / f"{stem}.jpg")
        (tmp_path / split / "Annotations" / f"{stem}.xml").rename(tmp_path / split / f"{stem}.xml")
    found = whole(tmp_path, "train", "VOC")
    assert found.files.tolist() == ["train/a.jpg", "train/b.jpg"]
    assert found.boxes.tolist() == [[0.5, 0, 9, 9]] * 2
    assert len(whole(tmp_path, "val", "VOC")) == 1


def test_an_image_that_only_the_xml_names(tmp_path: Path) -> None:
    made.image(tmp_path / "pictures" / "photo 1.jpg")
    (tmp_path / "xml").mkdir()
    body = "<annotation><filename>C:\\x\\photo 1.jpg</filename>" + made.box("cat", 1, 1, 9, 9) + "</annotation>"
    (tmp_path / "xml" / "1.xml").write_text(body)
    found = whole(tmp_path, format="VOC")
    assert (found.files.tolist(), found.sizes.tolist()) == (["pictures/photo 1.jpg"], [[48, 64]])
    (tmp_path / "pictures" / "photo 1.jpg").unlink()
    with pytest.raises(DataError, match=r"1\.xml: no image of this name"):
        whole(tmp_path, format="VOC")


def test_voc_with_lists_has_a_test_part(tmp_path: Path) -> None:
    for stem in "abc":
        made.voc(tmp_path, stem, made.box("cat", 1, 1, 9, 9))
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    for split, stem in (("train", "a"), ("val", "b"), ("test", "c")):
        (tmp_path / "ImageSets" / "Main" / f"{split}.txt").write_text(stem)
    assert [whole(tmp_path, part, "VOC").image_ids.tolist() for part in ("train", "val", "test")] == [
        ["a"],
        ["b"],
        ["c"],
    ]


def test_two_voc_data_sets_are_two(tmp_path: Path) -> None:
    for year in (2007, 2012):
        made.voc(tmp_path / f"VOC{year}", "a", made.box("cat", 1, 1, 9, 9))
    with pytest.raises(DataError, match="more than one VOC data set"):
        detect_source(tmp_path)


def test_no_error_is_told_by_the_name_of_a_folder(tmp_path: Path) -> None:
    root = tmp_path / "more than one VOC data set"
    made.voc(root, "a", made.box("cat", 1, 1, 9, 9))
    (root / "Annotations" / "a.xml").rename(root / "a.xml")
    (root / "Annotations").rmdir()
    assert len(detect_source(root).read("all")) == 1


def yolo(root: Path, stems: str, text: str) -> Path:
    for number, stem in enumerate(stems):
        made.image(root / "images" / stem / f"{stem}.png", seed=number)
        file = root / "labels" / stem / f"{stem}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("0 .5 .5 .5 .5\n")
    (root / "data.yaml").write_text(text)
    return root


@pytest.mark.parametrize(
    ("settings", "train", "val"),
    [
        ("train: ../images/a\nval: [images/b, images/c]", ["a"], ["b", "c"]),
        ("path: /elsewhere\ntrain: /elsewhere/images/a\nval: D:\\x\\images\\b", ["a"], ["b"]),
        ("train: first.txt\nval: second.txt", ["a", "c"], ["b"]),
    ],
)
def test_yolo_is_split_as_its_settings_say(tmp_path: Path, settings: str, train: list[str], val: list[str]) -> None:
    root = yolo(tmp_path, "abc", f"{settings}\nnames: [cat]\n")
    (root / "first.txt").write_text("./images/a/a.png\n/data/images/c/c.png\n")
    (root / "second.txt").write_text("images/b/b.png\n")
    for part, expected in (("train", train), ("val", val)):
        assert [Path(file).stem for file in whole(root, part, "YOLO").files] == expected


@pytest.mark.parametrize("settings", ["train: images\nval: images", "train: nowhere\nval: images/a", "train: 3", ""])
def test_settings_that_split_nothing_are_no_split(tmp_path: Path, settings: str) -> None:
    assert len(whole(yolo(tmp_path, "abc", f"{settings}\nnames: [cat]\n"), format="YOLO")) == 3


def test_names_may_lie_beside_the_labels(tmp_path: Path) -> None:
    root = yolo(tmp_path, "ab", "names: [cat]\n")
    (root / "data.yaml").unlink()
    (root / "labels" / "classes.txt").write_text("dog\n")
    assert whole(root, format="YOLO").classes == ("dog",)


def test_coco_and_voc_keep_identical_pictures_on_one_side(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "height": 48, "width": 64} for i in range(8)]
    for entry in images:
        made.image(tmp_path / entry["file_name"], seed=entry["id"] // 4)
    made.coco(tmp_path / "all.json", images, [], {1: "cat"})
    found = whole(tmp_path)
    sides = {tuple(train_val_split(found, 0.5, seed, "val").tolist()) for seed in range(8)}
    assert sides == {(0, 1, 2, 3), (4, 5, 6, 7)}
    assert len(train_val_split(found, 0.2, 0, "val")) == 4  # no smaller share keeps them together
    with pytest.raises(DataError, match="its 4 images are the same byte by byte"):
        train_val_split(found.subset([0, 1, 2, 3]), 0.2, 0, "val")


def test_what_it_is_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made.simple_coco(tmp_path / "train.json", tmp_path / "train")
    made.simple_coco(tmp_path / "val.json", tmp_path / "val")
    with caplog.at_level(logging.INFO):
        detect_source(tmp_path)
    assert f"{tmp_path}: taken for a data set in the format COCO (train, val)" in caplog.text
