"""Faults of data sets as people have them, each in several formats: read by meaning, or reported by name."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detseg.check.checking import CheckResult, check_dataset
from detseg.check.repair import repair
from detseg.check.training_checks import check_before_training, check_masks_before_training
from detseg.data import DetectionDataModule, SegmentationDataModule
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.semantic import SemanticAnnotations
from detseg.data.formats.base import DatasetFormat
from detseg.data.formats.coco.detection import CocoFormat
from detseg.data.formats.createml import CreateMlFormat
from detseg.data.formats.csv import CsvFormat
from detseg.data.formats.format_detection import detect_any, detect_source
from detseg.data.formats.kitti import KittiFormat
from detseg.data.formats.voc.detection import VocFormat
from detseg.data.formats.yolo import YoloFormat
from detseg.data.modules.detection import DetectionDataset
from detseg.data.modules.segmentation import SegmentationDataset
from detseg.draw import save_labels
from detseg.errors import DataError
from tests.data import made, sets
from tests.data.sets import Picture, Truth, write

TRUTH: Truth = {
    "train": [
        Picture("a", 40, 30, [("cat", 2, 3, 12, 14), ("dog", 5, 6, 20, 25)]),
        Picture("b", 40, 30, [("dog", 1, 2, 9, 8)]),
    ],
    "val": [Picture("c", 30, 40, [("cat", 3, 3, 9, 30)])],
}
WHOLE: Truth = {"all": [*TRUTH["train"], *TRUTH["val"]]}


def look(root: Path, format: str | DatasetFormat = "auto") -> CheckResult:
    return check_dataset(detect_any(root, format), False, 1, lambda count: nullcontext(lambda: None))


def counts(result: CheckResult) -> dict[str, tuple[int, int]]:
    """Images and objects of each split."""
    tables = {split: table for split, table in result.splits.items() if isinstance(table, DetectionAnnotations)}
    return {split: (len(table), len(table.labels)) for split, table in tables.items()}


def kinds(result: CheckResult) -> dict[str, int]:
    relevant = [issue.kind for issue in result.issues if not issue.kind.startswith(("class-", "image-empty"))]
    return {kind: relevant.count(kind) for kind in relevant}


def boxes(result: CheckResult, split: str = "all") -> list[list[float]]:
    table = result.splits[split]
    assert isinstance(table, DetectionAnnotations)
    return table.boxes.round(3).tolist()


def flat(root: Path, truth: Truth = WHOLE) -> Path:
    """YOLO's labels of data that are not split."""
    for picture in truth["all"]:
        sets.draw_image(root / "images" / f"{picture.stem}.png", picture)
        write(root / "labels" / f"{picture.stem}.txt", sets.yolo_lines(picture))
    write(root / "data.yaml", "names: [cat, dog]\n")
    return root


def sides(root: Path) -> tuple[DetectionDataModule, int]:
    data = DetectionDataModule(str(root))
    return data, len(data.val_annotations)


def test_an_evaluation_takes_every_image(tmp_path: Path) -> None:
    data, held_out = sides(flat(tmp_path))
    assert (held_out, data.count_images()) == (1, 3)
    data = DetectionDataModule(str(tmp_path))
    data.evaluate_on("all")
    assert (len(data.val_annotations), len(data.val_annotations.labels)) == (3, 4)
    data = DetectionDataModule(str(tmp_path))
    data.evaluate_on("test")
    with pytest.raises(DataError, match="it has no split test, but all"):
        _ = data.val_annotations


@pytest.mark.parametrize("format", ["yolo", "coco", "voc_lists", "voc_folders", "labelme", "csv"])
def test_any_split_can_be_evaluated(tmp_path: Path, format: str) -> None:
    sets.WRITERS[format](tmp_path, TRUTH | {"test": [Picture("d", 30, 30, [("dog", 1, 1, 9, 9)] * 1)]})
    for split, expected in (("train", (2, 3)), ("val", (1, 1)), ("test", (1, 1)), ("all", (4, 5))):
        data = DetectionDataModule(str(tmp_path))
        data.evaluate_on(split)  # type: ignore[arg-type]
        assert (len(data.val_annotations), len(data.val_annotations.labels)) == expected
        assert all(data.path("val", index).is_file() for index in range(expected[0]))
        assert data.count_images() == 4


@pytest.mark.parametrize("format", ["voc_folders", "labelme", "yolo"])
def test_a_folder_comes_before_a_file_name(tmp_path: Path, format: str) -> None:
    truth = {
        "train": [one._replace(stem=f"test{i}_{one.stem}") for i, one in enumerate(TRUTH["train"])],
        "val": [TRUTH["val"][0]._replace(stem="train6")],
    }
    sets.WRITERS[format](tmp_path, truth)
    assert counts(look(tmp_path)) == {"train": (2, 3), "val": (1, 1)}


@pytest.mark.parametrize("name", ["eval", "dev", "valset", "valid", "validation", "evaluation"])
@pytest.mark.parametrize("format", ["yolo", "coco", "labelme", "csv"])
def test_splits_have_many_names(tmp_path: Path, format: str, name: str) -> None:
    sets.WRITERS[format](tmp_path, {"trainset": TRUTH["train"], name: TRUTH["val"]})
    result = look(tmp_path)
    assert counts(result) == {"train": (2, 3), "val": (1, 1)}
    assert kinds(result) == {}


@pytest.mark.parametrize("format", ["yolo", "voc_folders", "labelme", "csv"])
def test_an_unknown_folder_cancels_no_split(tmp_path: Path, format: str) -> None:
    sets.WRITERS[format](tmp_path, TRUTH | {"more": [Picture("d", 30, 30, [("dog", 1, 1, 9, 9)])]})
    result = look(tmp_path)
    assert counts(result) == {"train": (2, 3), "val": (1, 1)}
    assert kinds(result) == {"file-unused": 1, "image-unused": 1}
    assert "no split uses it" in result.of_kind("file-unused")[0].message


@pytest.mark.parametrize("format", ["yolo", "voc_folders", "labelme", "createml"])
def test_a_split_without_another_is_reported(tmp_path: Path, format: str) -> None:
    sets.WRITERS[format](tmp_path, {"more": TRUTH["train"], "val": TRUTH["val"]})
    result = look(tmp_path)
    assert (counts(result), kinds(result)) == ({"all": (3, 4)}, {"split-conflict": 1})
    assert "in folders of the val split, but" in result.of_kind("split-conflict")[0].message


def test_a_stray_label_file_is_unused(tmp_path: Path) -> None:
    truth = {"all": [*WHOLE["all"], Picture("d", 30, 30, [("dog", 1, 1, 9, 9)])]}
    (flat(tmp_path, truth) / "other").mkdir()
    (tmp_path / "labels" / "b.txt").rename(tmp_path / "other" / "b.txt")
    result = look(tmp_path)
    assert (counts(result), kinds(result)) == ({"all": (4, 4)}, {"file-unused": 1, "label-missing": 1})


def test_two_images_of_one_stem(tmp_path: Path) -> None:
    shutil.copy(flat(tmp_path) / "images" / "a.png", tmp_path / "images" / "a.jpg")
    (issue,) = look(tmp_path).of_kind("image-ambiguous")
    assert "a.txt: fits images/a.jpg and images/a.png equally well" in issue.message
    with pytest.raises(DataError, match=r"a\.txt: fits images/a\.jpg and images/a\.png equally well"):
        detect_source(tmp_path).read("all")
    for writer in (sets.voc_folders, sets.labelme):  # which name the file
        root = tmp_path / writer.__name__
        writer(root, TRUTH)
        shutil.copy(root / "train" / "a.png", root / "train" / "a.jpg")
        assert counts(look(root)) == {"train": (2, 3), "val": (1, 1)}


@pytest.mark.parametrize("shape", ["[5, 2]", "[5, 3]"])
def test_key_points_are_no_polygon(tmp_path: Path, shape: str) -> None:
    points = " 0.2 0.2 1" if shape == "[5, 3]" else " 0.2 0.2"
    for file in (flat(tmp_path) / "labels").iterdir():
        file.write_text("".join(f"{line}{points * 5}\n" for line in file.read_text().splitlines()))
    with (tmp_path / "data.yaml").open("a") as settings:
        settings.write(f"kpt_shape: {shape}\n")
    result = look(tmp_path)
    assert boxes(result) == [[2, 3, 12, 14], [5, 6, 20, 25], [1, 2, 9, 8], [3, 3, 9, 30]]
    assert [issue.message for issue in result.of_kind("label-unused")] == [
        f"{tmp_path}: the key points of 4 objects are not read"
    ]


def test_key_points_without_their_shape_are_an_error(tmp_path: Path) -> None:
    for file in (flat(tmp_path) / "labels").iterdir():
        lines = [line.split() for line in file.read_text().splitlines()]
        file.write_text("".join(f"{' '.join(line)}{f' {line[1]} {line[2]}' * 5}\n" for line in lines))
    (issue,) = look(tmp_path).of_kind("label-broken")
    assert "all 4 lines of 14 numbers look like boxes with 5 key points" in issue.message
    assert "`kpt_shape: [5, 2]`" in issue.message


def shape(kind: str, points: list[list[float]], **more: Any) -> dict[str, Any]:
    return {"label": "cat", "shape_type": kind, "points": points, **more}


def one_labelme(root: Path, shapes: list[dict[str, Any]], **more: Any) -> Path:
    picture = TRUTH["train"][0]
    sets.draw_image(root / "a.png", picture)
    write(root / "a.json", json.dumps(sets.labelme_content(picture) | {"shapes": shapes} | more))
    return root


def test_masks_and_unknown_shapes_of_labelme(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((11, 10), 255, np.uint8)).convert("1").save(stream, "PNG")
    mask = shape("mask", [[2, 3], [11, 13]], mask=base64.b64encode(stream.getvalue()).decode())
    root = one_labelme(tmp_path, [mask, shape("point", [[1, 1]]), shape("linestrip", [[1, 1], [2, 2]])])
    result = look(root)
    assert boxes(result) == [[2, 3, 12, 14]]
    table = result.splits["all"]
    assert isinstance(table, DetectionAnnotations)
    assert table.areas.tolist() == [110]
    assert sorted(issue.message.partition(": ")[2] for issue in result.of_kind("shape-unsupported")) == [
        "1 shapes of the type linestrip are left out, the first in a.json",
        "1 shapes of the type point are left out, the first in a.json",
    ]


@pytest.mark.parametrize("factor", [2, 0.5])
@pytest.mark.parametrize("format", ["labelme", "voc_folders", "coco", "csv"])
def test_images_of_another_size_are_an_error(tmp_path: Path, format: str, factor: float) -> None:
    sets.WRITERS[format](tmp_path, TRUTH)
    if format == "csv":
        table = (tmp_path / "val.csv").read_text().splitlines()
        write(tmp_path / "val.csv", f"{table[0]},width,height\n{table[1]},30,40\n")
    (file,) = tmp_path.rglob("c.png")
    sets.draw_image(file, Picture("c", int(30 * factor), int(40 * factor), []))
    (issue,) = look(tmp_path).of_kind("image-size")
    assert f"c.png: is {int(30 * factor)}x{int(40 * factor)}, its labels are for 30x40" in issue.message
    with pytest.raises(DataError, match=r"c\.png: the image is .* says 30x40"):
        DetectionDataModule(str(tmp_path)).dataset("val")[0]


@pytest.mark.parametrize(
    ("text", "difficult"),
    [("0", 0), ("1", 1), ("true", 1), ("false", 0), ("Yes", 1), ("no", 0), ("Unspecified", 0), ("", 0), ("maybe", 0)],
)
def test_flags_are_read_by_meaning(tmp_path: Path, text: str, difficult: int) -> None:
    made.voc(tmp_path, "a", made.box("cat", 1, 1, 9, 9, f"<difficult>{text}</difficult>"))
    result = look(tmp_path)
    table = result.splits["all"]
    assert isinstance(table, DetectionAnnotations)
    assert table.difficult.tolist() == [bool(difficult)]
    assert len(result.of_kind("flag-unknown")) == (text == "maybe")


@pytest.mark.parametrize("listed", [True, False])
def test_folders_below_those_of_voc(tmp_path: Path, listed: bool) -> None:
    for folder, picture in (("cam1", TRUTH["train"][0]), ("cam2", TRUTH["train"][1]._replace(stem="a"))):
        sets.draw_image(tmp_path / "JPEGImages" / folder / "a.png", picture)
        write(tmp_path / "Annotations" / folder / "a.xml", sets.voc_text(picture))
    if listed:
        write(tmp_path / "ImageSets" / "Main" / "train.txt", "cam1/a\n")
        write(tmp_path / "ImageSets" / "Main" / "val.txt", "cam2/a.png\n")
    expected = {"train": (1, 2), "val": (1, 1)} if listed else {"all": (2, 3)}
    assert counts(look(tmp_path)) == expected


DOUBLED: Truth = {split: [one._replace(objects=one.objects * 2) for one in part] for split, part in TRUTH.items()}


@pytest.mark.parametrize("format", sets.WRITERS)
def test_doubled_objects(tmp_path: Path, format: str) -> None:
    sets.WRITERS[format](tmp_path / "in", DOUBLED)
    result = look(tmp_path / "in")
    assert kinds(result) == {"object-doubled": 4}
    repair(result, tmp_path / "out", lambda: None)
    again = look(tmp_path / "out")
    assert (counts(again), kinds(again)) == ({"train": (2, 3), "val": (1, 1)}, {})


def test_rotated_boxes_become_those_around_them(tmp_path: Path) -> None:
    content: dict[str, Any] = sets.coco_content([Picture("a", 60, 60, [("cat", 20, 25, 40, 35)])])
    content["annotations"][0] |= {"attributes": {"rotation": 90.0}, "segmentation": []}
    made.image(tmp_path / "a.png", 60, 60)
    write(tmp_path / "a.json", json.dumps(content))
    result = look(tmp_path)
    assert boxes(result) == [[25, 20, 35, 40]]
    assert kinds(result) == {"shape-unsupported": 1}
    turn = "<attributes><attribute><name>rotation</name><value>90.0</value></attribute></attributes>"
    made.voc(tmp_path / "voc", "a", made.box("cat", 21, 11, 40, 20, turn))
    result = look(tmp_path / "voc")
    assert boxes(result) == [[25, 5, 35, 25]]
    assert kinds(result) == {"shape-unsupported": 1}


def test_files_that_disagree_are_both_named(tmp_path: Path) -> None:
    sets.yolo(tmp_path, TRUTH)
    (tmp_path / "data.yaml").unlink()
    write(tmp_path / "labels" / "train" / "classes.txt", "cat\ndog\n")
    write(tmp_path / "labels" / "val" / "classes.txt", "dog\ncat\n")
    with pytest.raises(
        DataError, match=r"val/classes\.txt: calls class 0 'dog', but .*train/classes\.txt calls it 'cat'"
    ):
        detect_source(tmp_path).read("train")
    write(tmp_path / "data.yaml", "nc: 3\nnames: [cat, dog]\n")
    with pytest.raises(DataError, match=r"data\.yaml: nc is 3, but names has 2"):
        detect_source(tmp_path).read("train")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[yes, no]", ("yes", "no")),
        ("[on, off]", ("on", "off")),
        ("[007, 1.50]", ("007", "1.50")),
        ("[null, ~]", ("null", "~")),
        ("{0: 2001-01-01, 1: 0x1F}", ("2001-01-01", "0x1F")),
    ],
)
def test_names_are_as_written(tmp_path: Path, names: str, expected: tuple[str, str]) -> None:
    write(flat(tmp_path) / "data.yaml", f"names: {names}\n")
    assert detect_source(tmp_path).read("all").classes == expected


@pytest.mark.parametrize("format", ["voc_folders", "labelme", "csv", "createml", "cvat"])
def test_names_that_are_no_words(tmp_path: Path, format: str) -> None:
    names = ["007", "1.50", "null", "yes"]
    objects = [(name, 1 + number, 2, 20, 20) for number, name in enumerate(names)]
    sets.WRITERS[format](tmp_path, {"train": [Picture("a", 30, 30, objects)], "val": [Picture("b", 30, 30, objects)]})
    assert detect_source(tmp_path).read("val").classes == tuple(names)


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPG", ".dib", ".gif", ".ppm"])
def test_all_suffixes_of_images(tmp_path: Path, suffix: str) -> None:
    image = flat(tmp_path) / "images" / "a.png"
    kind = {".dib": "BMP", ".gif": "GIF", ".ppm": "PPM"}.get(suffix, "JPEG")
    Image.open(image).save(image.with_suffix(suffix), format=kind)
    image.unlink()
    result = look(tmp_path)
    assert (counts(result), kinds(result)) == ({"all": (3, 4)}, {})
    image.with_suffix(suffix).rename(image.with_suffix(".heic"))
    (issue,) = look(tmp_path).of_kind("label-stray")
    assert "images/a.heic has a suffix that is not read" in issue.message


@pytest.mark.parametrize("suffix", [".jfif", ".gif"])
@pytest.mark.parametrize("format", sets.WRITERS)
def test_suffixes_in_any_format(tmp_path: Path, format: str, suffix: str) -> None:
    files = sets.WRITERS[format](tmp_path, TRUTH)
    (image,) = tmp_path.rglob("b.png")
    Image.open(image).save(image.with_suffix(suffix), format={".jfif": "JPEG", ".gif": "GIF"}[suffix])
    image.unlink()
    for file in files:
        file.write_text(file.read_text().replace("b.png", f"b{suffix}"))
    result = look(tmp_path)
    assert (counts(result), kinds(result)) == ({"train": (2, 3), "val": (1, 1)}, {})


def test_orientation_without_a_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(flat(tmp_path) / "images" / "a.jpg", exif=exif)
    (tmp_path / "images" / "a.png").unlink()
    (issue,) = look(tmp_path).of_kind("image-turned")
    assert "1 images such as images/a.jpg are labelled as shown" in issue.message
    assert boxes(look(tmp_path, YoloFormat(orientation="stored")))[0] == [2, 3, 12, 14]
    table = tmp_path / "csv"
    shutil.copytree(tmp_path / "images", table)
    write(table / "t.csv", "filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,2,3,38,14\n")
    (issue,) = look(table).of_kind("image-turned")
    assert "1 of their boxes reach beyond them, 0 with `format.orientation='stored'`" in issue.message
    assert boxes(look(table, CsvFormat(orientation="stored"))) == [[2, 3, 38, 14]]


def in_createml(root: Path) -> DatasetFormat:
    coordinates = {"x": 20, "y": 8, "width": 36, "height": 10}
    entry = {"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": coordinates}]}
    write(root / "a.createml.json", json.dumps([entry]))
    return CreateMlFormat(orientation="stored")


def in_coco(root: Path) -> DatasetFormat:
    content: dict[str, Any] = sets.coco_content([Picture("a", 0, 0, [("cat", 2, 3, 38, 13)])])
    content["images"][0] = {"id": 1, "file_name": "a.jpg"}
    write(root / "a.json", json.dumps(content))
    return CocoFormat(orientation="stored")


def in_voc(root: Path) -> DatasetFormat:
    write(root / "a.xml", f"<annotation>{made.box('cat', 3, 4, 38, 13)}</annotation>")
    return VocFormat(orientation="stored")


def in_kitti(root: Path) -> DatasetFormat:
    write(root / "a.txt", "cat 0 0 0 2 3 38 13 1 1 1 1 1 1 1\n")
    return KittiFormat(orientation="stored")


@pytest.mark.parametrize("build", [in_createml, in_coco, in_voc, in_kitti])
@pytest.mark.parametrize("orientation", [3, 8])
def test_orientation_in_any_format(
    tmp_path: Path, build: Callable[[Path], DatasetFormat], orientation: int, caplog: pytest.LogCaptureFixture
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[3:13, 2:38] = 255
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    stored = build(tmp_path)
    (issue,) = look(tmp_path).of_kind("image-turned")
    assert "1 images such as a.jpg are labelled as shown" in issue.message
    with caplog.at_level(logging.INFO):
        table = detect_source(tmp_path).read("all")
    assert issue.message in caplog.text
    assert look(tmp_path, stored).of_kind("image-rotated")
    for format, inside in (("auto", False), (stored, True)):
        table = detect_source(tmp_path, format).read("all")  # type: ignore[arg-type]
        assert isinstance(table, DetectionAnnotations)
        image = DetectionDataset(table, [], False).read(0).image
        assert image.shape[:2] == ((40, 30) if orientation == 8 and not inside else (30, 40))
        assert (image[3:13, 2:38].min() > 200) == inside
    repair(look(tmp_path, stored), tmp_path.parent / f"{tmp_path.name}_out", lambda: None)
    again = look(tmp_path.parent / f"{tmp_path.name}_out")
    assert (boxes(again), kinds(again)) == ([[2, 3, 38, 13]], {})


def test_orientation_where_the_size_says_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    sets.coco(tmp_path, TRUTH)
    Image.new("RGB", (30, 40)).save(tmp_path / "val" / "c.png", exif=exif)
    (issue,) = look(tmp_path).of_kind("image-turned")
    assert "c.png: viewers mirror it or turn it upside down; its labels are taken to be for the image as shown" in str(
        issue
    )
    rows = np.arange(256, dtype=np.uint8)
    table = SemanticAnnotations(("a",), (0,), tmp_path, np.array(["a.png"]), np.arange(1), Mask(), rows)
    data = SegmentationDataset(table, [], False)
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert data.read(0).image[0].max() == 0
    data.annotations = replace(table, orientation="stored")
    assert data.read(0).image[0].min() == 255


class Mask:
    """A mask of one class."""

    def read(self, index: int, issues: object = None) -> np.ndarray:
        return np.zeros((4, 6), np.uint8)

    def size(self, index: int) -> tuple[int, int]:
        return 4, 6

    def source(self, index: int) -> Path:
        return Path("mask")


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("my picture", "my%20picture"),
        pytest.param("e\u0301t\u00e9", "\u00e9te\u0301", marks=made.accents),
        ("A", "a"),
        ("a%20b", "a b"),
    ],
)
@pytest.mark.parametrize("writer", [sets.yolo, sets.voc_folders, sets.labelme, sets.coco, sets.csv, sets.cvat])
def test_names_in_other_spellings(tmp_path: Path, image: str, label: str, writer: sets.Writer) -> None:
    first, *others = TRUTH["train"]
    files = writer(tmp_path, {"train": [first._replace(stem="x"), *others], "val": TRUTH["val"]})
    (picture,) = tmp_path.rglob("x.png")
    picture.rename(picture.with_name(f"{image}.png"))
    if files[0].stem == "x":
        files[0].rename(files[0].with_name(f"{label}{files[0].suffix}"))
    else:
        files[0].write_text(files[0].read_text().replace("x.png", f"{label}.png"), encoding="utf-8")
    result = look(tmp_path)
    assert (counts(result), kinds(result)) == ({"train": (2, 3), "val": (1, 1)}, {})


@pytest.mark.parametrize("ids", [None, "same", "text"])
def test_annotation_ids_are_made_up_anew(tmp_path: Path, ids: str | None) -> None:
    content: dict[str, Any] = sets.coco_content(WHOLE["all"])
    for picture in WHOLE["all"]:
        sets.draw_image(tmp_path / "in" / f"{picture.stem}.png", picture)
    for entry in content["annotations"]:
        entry["id"] = {None: None, "same": 7, "text": "a1"}[ids]
    write(tmp_path / "in" / "a.json", json.dumps(content))
    table = detect_source(tmp_path / "in").read("all")
    assert isinstance(table, DetectionAnnotations)
    assert len(set(table.ids.tolist())) == len(table.labels) == 4
    result = look(tmp_path / "in")
    assert (counts(result), kinds(result)) == ({"all": (3, 4)}, {"id-renewed": 1})
    repair(result, tmp_path / "out", lambda: None)
    again = look(tmp_path / "out")
    assert (counts(again), kinds(again)) == ({"all": (3, 4)}, {})


def crowds(root: Path) -> None:
    content: dict[str, Any] = sets.coco_content(WHOLE["all"])
    for picture in WHOLE["all"]:
        sets.draw_image(root / f"{picture.stem}.png", picture)
    write(root / "a.json", json.dumps(content | {"annotations": [e | {"iscrowd": 1} for e in content["annotations"]]}))


def difficult(root: Path) -> None:
    for file in sets.voc_lists(root, WHOLE):
        file.write_text(file.read_text().replace("</object>", "<difficult>1</difficult></object>"))


def groups(root: Path) -> None:
    write(root / "class-descriptions-boxable.csv", "/m/1,cat\n")
    text = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"
    for number in range(4):
        made.image(root / f"{number}.jpg", seed=number)
        text += f"{number},x,/m/1,1,0.1,0.5,0.2,0.6,0,0,{'true' if number else '1'}\n"
    write(root / "all-annotations-bbox.csv", text)


def without_score(root: Path) -> None:
    for number in range(4):
        made.image(root / "images" / f"{number}.jpg", seed=number)
        write(root / "annotations" / f"{number}.txt", "4,4,20,20,0,1,0,0\n")


@pytest.mark.parametrize(
    ("build", "word"),
    [(crowds, "crowds"), (difficult, "difficult"), (groups, "crowds"), (without_score, "crowds")],
)
def test_check_and_training_agree_on_flags(tmp_path: Path, build: Callable[[Path], None], word: str) -> None:
    build(tmp_path)
    (issue,) = look(tmp_path).of_kind("objects-none")
    assert f"of 4 objects, 4 are {word}" in issue.message
    with pytest.raises(DataError, match=rf"no object to learn from: of \d objects, \d are {word}"):
        check_before_training(DetectionDataModule(str(tmp_path)), validates=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: re.sub(r"^(\d) ", r"\1.0 ", text, flags=re.MULTILINE),
        lambda text: re.sub(r"^(\d) ", r"\1.000000000000000000e+00 ", text, flags=re.MULTILINE),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(" ", "\t"),
        lambda text: "\n" + text,
    ],
)
def test_near_misses_of_yolo_are_read(tmp_path: Path, change: Callable[[str], str]) -> None:
    for file in (flat(tmp_path) / "labels").iterdir():
        file.write_text(change(file.read_text()), encoding="utf-8", newline="")
    for format in ("auto", "YOLO"):
        result = look(tmp_path, format)
        assert (counts(result), kinds(result)) == ({"all": (3, 4)}, {})


@pytest.mark.parametrize("format", ["yolo", "coco", "voc_lists", "voc_folders", "labelme", "csv"])
def test_hidden_files_are_no_data(tmp_path: Path, format: str) -> None:
    sets.WRITERS[format](tmp_path, TRUTH)
    for file in [*tmp_path.rglob("*.*")]:
        (file.parent / f"._{file.name}").write_bytes(b"\x00\x05\x16\x07")
        target = tmp_path / "__MACOSX" / file.relative_to(tmp_path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_name(f"._{file.name}").write_bytes(b"\x00\x05\x16\x07")
    result = look(tmp_path)
    assert (counts(result), kinds(result)) == ({"train": (2, 3), "val": (1, 1)}, {})


def test_names_of_darknet(tmp_path: Path) -> None:
    for split, pictures in TRUTH.items():
        for picture in pictures:
            sets.draw_image(tmp_path / split / f"{picture.stem}.png", picture)
            write(tmp_path / split / f"{picture.stem}.txt", sets.yolo_lines(picture))
        write(tmp_path / split / "_darknet.labels", "cat\ndog\n")
    assert counts(look(tmp_path)) == {"train": (2, 3), "val": (1, 1)}


def test_pixels_instead_of_fractions(tmp_path: Path) -> None:
    write(flat(tmp_path) / "labels" / "b.txt", "1 5 5 8 6\n")
    (issue,) = look(tmp_path).of_kind("box-pixels")
    assert "b.txt: line 1 has numbers above 1" in issue.message
    with pytest.raises(DataError, match=r"b\.txt: line 1 has numbers above 1"):
        detect_source(tmp_path).read("all")


def test_a_program_that_counts_from_0(tmp_path: Path) -> None:
    made.voc(tmp_path, "a", made.box("cat", 0, 0, 9, 9))
    made.voc(tmp_path, "b", made.box("cat", 5, 5, 9, 9))
    (issue,) = look(tmp_path).of_kind("box-zero-based")
    assert "1 of 2 files such as a.xml have corners of 0" in issue.message


def test_images_that_no_label_file_lists(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sets.coco(tmp_path, TRUTH)
    made.image(tmp_path / "train" / "extra.png")
    result = look(tmp_path)
    assert kinds(result) == {"image-unused": 1}
    assert "extra.png: is in no split; some programs leave images without objects out" in result.issues[0].message
    with caplog.at_level(logging.INFO):
        check_before_training(DetectionDataModule(str(tmp_path)), validates=True)
    assert "1 images that no split uses (image-unused)" in caplog.text


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    root = flat(tmp_path)
    data = DetectionDataModule(str(root / "data.yaml"))
    assert len(data.train_annotations) + len(data.val_annotations) == 3
    for name, message in (
        ("set.zip", "is an archive; unpack it"),
        ("annotations/a.json", "is a file; give the folder"),
    ):
        with pytest.raises(DataError, match=message):
            detect_source(write(root / name, "x"))


@pytest.mark.parametrize("content", ["", "[]", "{}", "<html></html>", "version https://git-lfs.github.com/spec/v1\n"])
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("format", ["coco", "csv", "createml", "cvat"])
def test_a_file_in_a_labels_place_is_never_skipped(tmp_path: Path, format: str, split: str, content: str) -> None:
    files = sets.WRITERS[format](tmp_path, TRUTH)
    broken = next(file for file in files if split in str(file.relative_to(tmp_path)))
    broken.write_text(content)
    if (format, content) == ("createml", "[]"):
        return  # a list of no images
    with pytest.raises(DataError, match=broken.name):
        detect_source(tmp_path).read(split)
    assert any(broken.name in issue.message for issue in look(tmp_path).issues)


@pytest.mark.parametrize("format", ["voc_folders", "voc_lists", "labelme", "yolo"])
@pytest.mark.parametrize("content", ["", "<html></html>", "version https://git-lfs.github.com/spec/v1\n", "x y"])
def test_a_file_beside_an_image_is_its_labels(tmp_path: Path, format: str, content: str) -> None:
    files = sets.WRITERS[format](tmp_path, TRUTH)
    if (format, content) == ("yolo", ""):
        return  # an image without objects
    files[0].write_text(content)
    with pytest.raises(DataError, match=files[0].name):
        detect_source(tmp_path).read("train")
    assert [files[0].name in issue.message for issue in look(tmp_path).of_kind("label-broken")] == [True]


def test_a_repair_keeps_the_objects_of_equal_images(tmp_path: Path) -> None:
    root = flat(tmp_path / "in")
    shutil.copy(root / "images" / "a.png", root / "images" / "z.png")
    write(root / "labels" / "z.txt", "1 .5 .5 .25 .25\n" + sets.yolo_lines(TRUTH["train"][0]))
    repair(look(root), tmp_path / "out", lambda: None)
    again = look(tmp_path / "out")
    assert (counts(again), kinds(again)) == ({"all": (3, 5)}, {})


def lines_of_corners(picture: Picture) -> str:
    w, h = picture.width, picture.height
    return "".join(
        f"{sets.NAMES.index(name)} {a / w} {b / h} {c / w} {d / h}\n" for name, a, b, c, d in picture.objects
    )


def corners_in_yolo(root: Path, pictures: list[Picture]) -> None:
    for picture in pictures:
        sets.draw_image(root / "images" / f"{picture.stem}.png", picture)
        write(root / "labels" / f"{picture.stem}.txt", lines_of_corners(picture))
    write(root / "data.yaml", "names: [cat, dog]\n")


def corners_in_coco(root: Path, pictures: list[Picture]) -> None:
    content: dict[str, Any] = sets.coco_content(pictures)
    for entry in content["annotations"]:
        x, y, w, h = entry["bbox"]
        entry["bbox"] = [x, y, x + w, y + h]
    for picture in pictures:
        sets.draw_image(root / f"{picture.stem}.png", picture)
    write(root / "a.json", json.dumps(content))


@pytest.mark.parametrize("build", [corners_in_yolo, corners_in_coco])
def test_corners_instead_of_a_size(tmp_path: Path, build: Callable[[Path, list[Picture]], None]) -> None:
    picture = Picture("a", 40, 30, [("cat", 12, 8, 32, 28), ("dog", 21, 12, 38, 26), ("cat", 22, 20, 35, 29)])
    build(tmp_path, [picture])
    (issue,) = look(tmp_path).of_kind("box-corners")
    with pytest.raises(DataError, match=re.escape(issue.message)):
        detect_source(tmp_path).read("all")


def test_declared_splits_that_are_not_there(tmp_path: Path) -> None:
    write(flat(tmp_path) / "data.yaml", "train: images\nval: valid\nnames: [cat, dog]\n")
    (issue,) = look(tmp_path).of_kind("split-conflict")
    assert "no image lies where val is, valid" in issue.message
    write(tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\nnames: [cat, dog]\n")
    (issue,) = look(tmp_path).of_kind("split-conflict")
    assert "is in more than one split" in issue.message
    write(tmp_path / "data.yaml", "train: train.txt\nval: val.txt\nnames: [cat, dog]\n")
    write(tmp_path / "train.txt", "images/a.png\nimages/b.png\nimages/x.png\n")
    write(tmp_path / "val.txt", "images/c.png\n")
    (issue,) = look(tmp_path).of_kind("image-missing")
    assert "train.txt: 1 of 3 lines name no image below" in issue.message
    assert counts(look(tmp_path)) == {"train": (2, 3), "val": (1, 1)}


def test_a_file_that_names_another_image(tmp_path: Path) -> None:
    files = sets.voc_folders(tmp_path, TRUTH)
    files[0].write_text(files[0].read_text().replace("a.png", "b.png"))
    (issue,) = look(tmp_path).of_kind("image-ambiguous")
    assert "a.xml: its filename is b.png, but its name is that of a.png" in issue.message


@pytest.mark.parametrize(
    ("change", "crowd", "difficult"),
    [
        ({"iscrowd": "false"}, False, False),
        ({"iscrowd": "true"}, True, False),
        ({"ignore": 1}, False, True),
        ({"ignore": "no", "difficult": "yes"}, False, True),
    ],
)
def test_flags_of_coco(tmp_path: Path, change: dict[str, Any], crowd: bool, difficult: bool) -> None:
    content: dict[str, Any] = sets.coco_content([TRUTH["train"][1]])
    content["annotations"][0] |= {"area": 0, **change}
    sets.draw_image(tmp_path / "b.png", TRUTH["train"][1])
    write(tmp_path / "a.json", json.dumps(content))
    for table in (detect_source(tmp_path).read("all"), look(tmp_path).splits["all"]):
        assert isinstance(table, DetectionAnnotations)
        assert (table.crowd.tolist(), table.difficult.tolist(), table.areas.tolist()) == ([crowd], [difficult], [48])
    assert "1 annotations have an area of 0 or less" in look(tmp_path).of_kind("area-renewed")[0].message


@made.accents
def test_classes_that_look_the_same(tmp_path: Path) -> None:
    for number, name in enumerate(("caf\u00e9", "cafe\u0301")):
        made.voc(tmp_path, str(number), made.box(name, 1, 1, 9, 9))
    assert len(look(tmp_path).of_kind("class-names")) == 1


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("a.csv", "a.png,1,1,9,9,cat\n", "a.csv: its header lacks columns"),
        (
            "a.txt",
            "cat 0.5 0.5 0.2 0.2\n",
            "a.txt: begins with 'cat 0.5 0.5 0.2 0.2', but YOLO has the number",
        ),
        ("a.txt", "0,0.5,0.5,0.2,0.2\n", "a.txt: begins with '0,0.5,0.5,0.2,0.2', but YOLO"),
        ("metadata.jsonl", '{"file_name": "a.png"}\n', "metadata.jsonl is of Hugging Face's image folders"),
    ],
)
def test_what_is_nearly_right_is_said(tmp_path: Path, file: str, text: str, message: str) -> None:
    made.image(tmp_path / "a.png")
    write(tmp_path / file, text)
    with pytest.raises(DataError, match=re.escape(message)):
        detect_source(tmp_path)


def test_several_files_of_coco_without_a_split(tmp_path: Path) -> None:
    for name in ("part0", "part1"):
        write(tmp_path / f"{name}.json", json.dumps(sets.coco_content(TRUTH["train"])))
    with pytest.raises(DataError, match=r"part0\.json, part1\.json are all of COCO: merge them"):
        detect_source(tmp_path)


def test_groups_of_shapes(tmp_path: Path) -> None:
    shapes = [shape("polygon", [[x, 1], [x + 4, 1], [x, 5]], group_id=1) for x in (1, 9)]
    (issue,) = look(one_labelme(tmp_path, shapes)).of_kind("label-unused")
    assert "2 shapes have the label and the group_id of another" in issue.message


def test_32_bits_have_no_range(tmp_path: Path) -> None:
    (flat(tmp_path) / "images" / "a.png").unlink()
    Image.fromarray(np.zeros((30, 40), np.float32)).save(tmp_path / "images" / "a.tif")
    (issue,) = look(tmp_path).of_kind("image-unreadable")
    with pytest.raises(DataError, match=re.escape(issue.message)):
        DetectionDataset(detect_source(tmp_path).read("all"), [], False).read(0)  # type: ignore[arg-type]


def test_masks_of_0_and_255(tmp_path: Path) -> None:
    pixels = np.zeros((30, 40), np.uint8)
    pixels[9:] = 255
    (tmp_path / "masks").mkdir()
    for stem in "abcde":
        made.image(tmp_path / "images" / f"{stem}.jpg", 30, 40, seed=ord(stem))
        save_labels(pixels, tmp_path / "masks" / f"{stem}.png")
    write(tmp_path / "classes.txt", "background\ncat\n")
    (issue,) = look(tmp_path).of_kind("objects-none")
    assert "the semantic masks hold 0 and 255 alone, and 255 is void" in issue.message
    with pytest.raises(DataError, match="the semantic masks hold 0 and 255 alone"):
        check_masks_before_training(SegmentationDataModule(str(tmp_path)))


def test_masks_of_another_type(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        made.image(tmp_path / folder / "a.jpg")
    write(tmp_path / "classes.txt", "background\ncat\n")
    with pytest.raises(DataError, match=r"the mask of this name is missing; a\.jpg is there, but must be a \.png"):
        detect_source(tmp_path, task="semantic_segmentation").read("all")


@pytest.mark.parametrize("format", ["yolo", "voc_folders", "labelme"])
def test_folders_below_those_of_a_split(tmp_path: Path, format: str) -> None:
    files = sets.WRITERS[format](tmp_path, TRUTH)
    for file in [*files, *tmp_path.rglob("*.png")]:
        target = file.parent / f"camera {file.stem}" / f"1{file.suffix}"
        target.parent.mkdir(exist_ok=True)
        file.rename(target)
        if file.suffix in (".xml", ".json"):
            target.write_text(target.read_text().replace(f"{file.stem}.png", "1.png"))
    result = look(tmp_path)
    assert (counts(result), kinds(result)) == ({"train": (2, 3), "val": (1, 1)}, {})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "Car 0 0 0 1 1 9 9 1 1 1 1 1 1 1 0.5 7\n", "has 17 columns; KITTI's labels have 15"),
        ("annotations/a.txt", "1,1,9,9,1,1,0,0\n1,1,9,9,1,1,0,0,5\n", "has 9 numbers; VisDrone's labels have 8"),
        ("a.csv", "filename,class,xmin,ymin,xmax,ymax\na.png,cat,1,1,9,9,5\n", "has 7 values, more than the header"),
        ("labels/a.txt", "0 .5 .5 .2 .2 .9\n", "has 5 numbers after the class"),
    ],
)
def test_numbers_of_a_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    made.image(tmp_path / ("images/a.png" if "/" in name else "a.png"))
    write(tmp_path / "classes.txt", "cat\n") if name.startswith("labels") else None
    if "Car" in text:
        text = "Car 0 0 0 1 1 9 9 1 1 1 1 1 1 1\n" + text
    write(tmp_path / name, text)
    assert [issue for issue in look(tmp_path).of_kind("label-broken") if message in issue.message]
    with pytest.raises(DataError, match=message):
        detect_source(tmp_path).read("all")


@pytest.mark.parametrize(("format", "pattern"), [("cvat", r' id="\d+"'), ("coco", r'"id": \d+,\s*(?="image_id")')])
def test_ids_are_bookkeeping(tmp_path: Path, format: str, pattern: str) -> None:
    for file in sets.WRITERS[format](tmp_path, TRUTH):
        text = re.sub(pattern, "", file.read_text())
        assert text != file.read_text()
        file.write_text(text)
    assert counts(look(tmp_path)) == {"train": (2, 3), "val": (1, 1)}


@pytest.mark.parametrize("format", ["csv", "createml", "labelme", "coco"])
def test_fractions_instead_of_pixels(tmp_path: Path, format: str) -> None:
    objects: Any = [("cat", 0.1, 0.2, 0.5, 0.6)]
    sets.WRITERS[format](tmp_path, {"train": [Picture("a", 40, 30, objects)], "val": [Picture("b", 40, 30, objects)]})
    assert len(look(tmp_path).of_kind("box-normalised")) == 2
    with pytest.raises(DataError, match="1 of 1 boxes have coordinates from 0 to 1 instead of pixels"):
        detect_source(tmp_path).read("train")


@pytest.mark.parametrize("format", ["csv", "createml", "cvat", "coco"])
def test_images_that_no_file_lists(tmp_path: Path, format: str) -> None:
    sets.WRITERS[format](tmp_path, TRUTH)
    made.image(tmp_path / "train" / "extra.png")
    assert kinds(look(tmp_path)) == {"image-unused": 1}


def test_a_file_of_coco_is_a_data_set(tmp_path: Path) -> None:
    files = sets.coco(tmp_path, TRUTH)
    data = DetectionDataModule(str(files[0]))
    data.evaluate_on("all")
    assert (len(data.val_annotations), len(data.val_annotations.labels)) == (2, 3)
    assert counts(look(files[1])) == {"all": (1, 1)}
    with pytest.raises(DataError, match=r"instances_train\.json: is a file of COCO; give the folder"):
        detect_source(files[0], "YOLO")
