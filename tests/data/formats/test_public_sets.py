"""Public data sets as their archives unpack them: folders, lists and lines as they are published."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import IssueCollector
from detseg.data.annotations.semantic import SemanticAnnotations
from detseg.data.formats.format_detection import detect_source
from detseg.data.modules.detection import DetectionDataset
from detseg.errors import DataError
from detseg.metrics import CocoAP, annotation_targets
from tests.data import made

CAR = "Car 0.00 0 1.85 4.50 6.00 24.25 36.00 1.67 1.87 3.69 -16.53 2.39 58.49 1.57"
CYCLIST = "Cyclist 0.00 3 -1.65 30.00 10.00 40.00 20.00 1.86 0.60 2.02 4.59 1.32 45.84 -1.55"
DONT_CARE = "DontCare -1 -1 -10 50.00 1.00 60.00 9.00 -1 -1 -1 -1000 -1000 -1000 -10"


def text(file: Path, *lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def kitti(root: Path, stem: str, *lines: str) -> Path:
    for folder in ("training/image_2", "training/image_3", "testing/image_2"):
        made.image(root / folder / f"{stem}.png", seed=sum(map(ord, folder + stem)))
    return text(root / "training" / "label_2" / f"{stem}.txt", *lines)


def test_kitti(tmp_path: Path) -> None:
    kitti(tmp_path, "000000", CAR, CYCLIST, DONT_CARE)
    kitti(tmp_path, "000001")
    source = detect_source(tmp_path)
    assert (source.format.name, [*source.splits]) == ("KITTI", ["all"])
    table = source.read("all")
    assert table.files.tolist() == ["training/image_2/000000.png", "training/image_2/000001.png"]
    assert (table.classes, table.offsets.tolist()) == (("Car", "Cyclist"), [0, 4, 4])
    assert table.boxes.tolist() == [[4.5, 6, 24.25, 36], [30, 10, 40, 20], *[[50, 1, 60, 9]] * 2]
    assert (table.crowd.tolist(), table.labels.tolist()) == ([False, False, True, True], [0, 1, 0, 1])


def test_an_ignored_region_is_learnt_by_no_class_and_wrong_for_none(tmp_path: Path) -> None:
    kitti(tmp_path, "000000", CAR, CYCLIST, DONT_CARE)
    table = detect_source(tmp_path).read("all")
    assert isinstance(table, DetectionAnnotations)
    assert DetectionDataset(table, [], True).read(0).labels.tolist() == [0, 1]
    boxes = torch.tensor([*table.boxes[:2].tolist(), [51, 2, 57, 8], [51, 2, 57, 8], [30, 28, 36, 34]])
    scores, labels = torch.tensor([0.5, 0.5, 0.9, 0.9, 0.9]), torch.tensor([0, 1, 0, 1, 0])
    for count, expected in ((4, 1.0), (5, 0.5)):  # two in the ignored region; another elsewhere
        metric = CocoAP(table.classes)
        metric.update(
            [{"boxes": boxes[:count], "scores": scores[:count], "labels": labels[:count]}],
            annotation_targets(table, [0]),
        )
        assert metric.compute()["AP/Car"] == pytest.approx(expected)


def test_a_broken_file_in_front_hides_no_folder(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val")):
        for stem in "ab":
            made.image(tmp_path / split / "images" / f"{stem}.jpg", seed=2 * number + ord(stem))
            text(tmp_path / split / "labels" / f"{stem}.txt", CAR)
    file = text(tmp_path / "val" / "labels" / "a.txt", "lorem ipsum")
    with pytest.raises(DataError, match=rf"{file}: line 1 has 2 columns"):
        detect_source(tmp_path).read("val")


def test_the_lists_of_kitti(tmp_path: Path) -> None:
    for stem in ("000000", "000001", "000002"):
        kitti(tmp_path, stem, CAR)
    text(tmp_path / "ImageSets" / "train.txt", "000000", "000002")
    text(tmp_path / "ImageSets" / "val.txt", "000001")
    source = detect_source(tmp_path)
    assert [[Path(file).stem for file in source.read(split).files] for split in ("train", "val")] == [
        ["000000", "000002"],
        ["000001"],
    ]
    kitti(tmp_path, "000003", CAR)
    assert [issue.file for issue in detect_source(tmp_path).issues] == [f"{tmp_path}/training/label_2/000003.txt"]
    text(tmp_path / "ImageSets" / "val.txt")
    assert len(detect_source(tmp_path).read("all")) == 4


def test_lists_alone_are_not_kitti(tmp_path: Path) -> None:
    made.simple_coco(tmp_path / "labels.json", tmp_path / "images")
    for split in ("train", "val"):
        text(tmp_path / "ImageSets" / f"{split}.txt", "0")
    assert detect_source(tmp_path).format.name == "COCO"


def test_columns_of_kitti_in_other_folders(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val")):
        made.image(tmp_path / split / "images" / "a.jpg", seed=number)
        text(tmp_path / split / "labels" / "a.txt", CAR.replace("Car", "my_part"))
    source = detect_source(tmp_path)
    assert source.read("val").files.tolist() == ["val/images/a.jpg"]
    assert source.read("train").classes == ("my_part",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (CAR.replace("4.50", "left"), r"has corners \['left'"),
        (CAR.rpartition(" ")[0], "has 14 columns; KITTI's labels have 15"),
    ],
)
def test_broken_lines_of_kitti(tmp_path: Path, line: str, message: str) -> None:
    file = kitti(tmp_path, "000000", CAR, line, CAR)
    with pytest.raises(DataError, match=rf"{file}: line 2 {message}"):
        detect_source(tmp_path).read("all")
    issues = IssueCollector()
    assert len(detect_source(tmp_path).read("all", "none", issues).boxes) == 2
    text(file, CAR)
    text(file.with_name("000009.txt"), CAR)
    with pytest.raises(DataError, match=r"000009\.txt: no image called 000009"):
        detect_source(tmp_path).read("all")


def visdrone(root: Path, split: str, stem: str, *lines: str) -> Path:
    folder = root / f"VisDrone2019-DET-{split}"
    made.image(folder / "images" / f"{stem}.jpg", seed=sum(map(ord, split + stem)))
    return text(folder / "annotations" / f"{stem}.txt", *lines)


def test_visdrone(tmp_path: Path) -> None:
    lines = ("4,6,20,30,1,4,0,0", "30,10,10,10,1,1,0,0,", "50,1,10,8,0,0,0,0", "1,1,9,9,0,11,0,0", "3,3,9,9,0,10,1,2")
    visdrone(tmp_path, "train", "0000002_00005_d_0000014", *lines)
    visdrone(tmp_path, "val", "0000001_02999_d_0000005", lines[0])
    visdrone(tmp_path, "test-dev", "9999938_00000_d_0000208", lines[0])
    source = detect_source(tmp_path)
    assert (source.format.name, {*source.splits}) == ("VisDrone", {"train", "val", "test"})
    table = source.read("train")
    assert table.classes[0] == "pedestrian"
    assert (len(table.classes), table.category_ids) == (10, tuple(range(1, 11)))
    learnt = ~table.crowd
    assert table.boxes[learnt].tolist() == [[4, 6, 24, 36], [30, 10, 40, 20]]
    assert [table.classes[label] for label in table.labels[learnt]] == ["car", "pedestrian"]
    # An object that the benchmark ignores, and an ignored region in each of the ten classes.
    crowds = [(table.classes[label], *box) for label, box in zip(table.labels, table.boxes.tolist(), strict=True)]
    crowds = [one for one, crowd in zip(crowds, table.crowd, strict=True) if crowd]
    assert crowds == [("motor", 3, 3, 12, 12), *((name, 50, 1, 60, 9) for name in table.classes)]
    assert "1 objects of the category others are left out" in made.reported(source, "train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("4,6,20,30,1,12,0,0", "has the category 12"),
        ("4,6,20,30,1,4,0", "has 7 numbers"),
        ("4,6,wide,30,1,4,0,0", r"has values \['4', '6', 'wide'"),
    ],
)
def test_broken_lines_of_visdrone(tmp_path: Path, line: str, message: str) -> None:
    file = visdrone(tmp_path, "train", "a", "4,6,20,30,1,4,0,0", line)
    with pytest.raises(DataError, match=rf"{file}: line 2 {message}"):
        detect_source(tmp_path).read("all")


WIDER = (
    *("0--Parade/0_Parade_marchingband_1_849.jpg", "1", "4 6 20 30 0 0 0 0 0 0 "),
    *("0--Parade/0_Parade_Parade_0_452.jpg", "0", "0 0 0 0 0 0 0 0 0 0 "),
    *("1--Handshaking/1_Handshaking_1.jpg", "3", "10 10 0 9 2 0 0 0 2 0 ", "30 10 10 10 1 0 0 1 2 0 "),
    "40 20 5 6 1 0 0 0 2 1 ",
)


def wider(root: Path, lines: tuple[str, ...] = WIDER) -> Path:
    for split in ("train", "val"):
        for number, line in enumerate(line for line in WIDER if line.endswith(".jpg")):
            made.image(root / f"WIDER_{split}" / "images" / line, seed=2 * number + (split == "val"))
    text(root / "wider_face_split" / "wider_face_val_bbx_gt.txt", *WIDER[:3])
    text(root / "wider_face_split" / "wider_face_test_filelist.txt", "0--Parade/0_Parade_marchingband_1_9.jpg")
    return text(root / "wider_face_split" / "wider_face_train_bbx_gt.txt", *lines)


def test_wider_face(tmp_path: Path) -> None:
    wider(tmp_path)
    source = detect_source(tmp_path)
    assert (source.format.name, {*source.splits}) == ("WIDERFACE", {"train", "val"})
    table = source.read("train")
    assert (table.classes, table.offsets.tolist()) == (("face",), [0, 1, 1, 2])
    assert table.files[1] == "WIDER_train/images/0--Parade/0_Parade_Parade_0_452.jpg"
    assert table.boxes.tolist() == [[4, 6, 24, 36], [40, 20, 45, 26]]
    assert "1 faces marked as invalid are left out" in made.reported(source, "train")
    assert source.read("val").files.tolist() == ["WIDER_val/images/0--Parade/0_Parade_marchingband_1_849.jpg"]
    issues = IssueCollector()
    source.read("train", "none", issues)
    assert sorted(issue.kind for issue in issues.issues) == ["box-area", "label-unused"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (WIDER[:-1], "is cut off: 1--Handshaking/1_Handshaking_1.jpg has 3 faces, but 2 lines follow"),
        ((*WIDER[:2], "4 6 20 30 0 0 0 0 0", *WIDER[3:]), "line 3 has 9 numbers; a face has 10"),
        ((WIDER[0], *WIDER[2:]), "line 2 is '4 6 20 30 0 0 0 0 0 0', but must be the number of faces of"),
    ],
)
def test_broken_lists_of_wider_face(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    file = wider(tmp_path, lines)
    with pytest.raises(DataError, match=rf"{file}: {message}"):
        detect_source(tmp_path).read("train")


def png(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), values.astype(np.uint8))


NAMES = (
    *(
        "Idx\tRatio\tTrain\tVal\tStuff\tName",
        "1\t0.1576\t11664\t1172\t1\twall",
        "2\t0.1072\t6046\t612\t1\tbuilding, edifice",
    ),
    "3 \t0.0231\t1906\t199\t0\tbed ",
)


def ade20k(root: Path, names: tuple[str, ...] = NAMES) -> Path:
    for number, (folder, stem) in enumerate((("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001"))):
        made.image(root / "images" / folder / f"{stem}.jpg", seed=number)
        values = np.zeros((48, 64))
        values[10:20, 5:9], values[30, 40] = 1 + number, 3
        png(root / "annotations" / folder / f"{stem}.png", values)
    return text(root / "objectInfo150.txt", *names)


@pytest.mark.parametrize("folder", ["", "ADEChallengeData2016"])
def test_ade20k(tmp_path: Path, folder: str) -> None:
    ade20k(tmp_path / folder)
    source = detect_source(tmp_path, task="semantic_segmentation")
    assert (source.format.name, [*source.splits]) == ("ADE20K", ["train", "val"])
    table = source.read("val")
    assert isinstance(table, SemanticAnnotations)
    assert (table.classes, table.category_ids) == (("wall", "building", "bed"), (1, 2, 3))
    expected = np.full((48, 64), 255)
    expected[10:20, 5:9], expected[30, 40] = 1, 2
    assert np.array_equal(table.labels(0), expected)


def test_names_of_ade20k(tmp_path: Path) -> None:
    file = ade20k(tmp_path, (*NAMES, "4\t0.1\t1\t1\t1\tbuilding, hut"))
    source = detect_source(tmp_path, task="semantic_segmentation")
    assert source.read("train").classes == ("wall", "building, edifice", "bed", "building, hut")
    text(file, *NAMES[:2])
    table = source.read("val")
    assert isinstance(table, SemanticAnnotations)
    with pytest.raises(DataError, match=r"ADE_val_00000001\.png: the pixel at x 5, y 10 has the label 2"):
        table.labels(0)
    text(file, NAMES[0], *NAMES[2:])
    with pytest.raises(DataError, match=rf"{file}: its lines must be numbered 1, 2"):
        source.read("train")
    file.unlink()
    with pytest.raises(DataError, match=r"has no classes\.txt"):
        source.read("train")


def pets(root: Path) -> None:
    for number, stem in enumerate(("Abyssinian_1", "beagle_2", "beagle_3")):
        made.image(root / "images" / f"{stem}.jpg", seed=number)
        values = np.full((48, 64), 2)
        values[10:30, 10:30], values[12:28, 12:28] = 3, 1
        png(root / "annotations" / "trimaps" / f"{stem}.png", values)
    (root / "images" / "Abyssinian_1.mat").write_bytes(b"")
    (root / "annotations" / "trimaps" / "._Abyssinian_1.png").write_bytes(b"")
    text(root / "annotations" / "trainval.txt", "Abyssinian_1 1 1 1", "beagle_2 5 2 1")
    text(root / "annotations" / "test.txt", "beagle_3 5 2 1")
    text(root / "annotations" / "list.txt", "#Image CLASS-ID SPECIES BREED ID", "Abyssinian_1 1 1 1")
    for stem, name in (("Abyssinian_1", "cat"), ("beagle_2", "dog")):
        head = f"<annotation>\n\t<folder>OXIIIT</folder>\n\t<filename>{stem}.jpg</filename>\n"
        size = "<size><width>64</width><height>48</height><depth>3</depth></size><segmented>0</segmented>"
        text(root / "annotations" / "xmls" / f"{stem}.xml", f"{head}{size}{made.box(name, 5, 7, 24, 36)}</annotation>")


def test_the_heads_of_pets(tmp_path: Path) -> None:
    pets(tmp_path)
    source = detect_source(tmp_path)
    assert (source.format.name, [*source.splits]) == ("VOC", ["all"])
    table = source.read("all")
    assert [table.path(i) for i in range(2)] == [
        tmp_path / "images" / f"{stem}.jpg" for stem in ("Abyssinian_1", "beagle_2")
    ]
    assert (table.classes, table.boxes.tolist()) == (("cat", "dog"), [[4, 6, 24, 36]] * 2)


def test_the_trimaps_of_pets(tmp_path: Path) -> None:
    pets(tmp_path)
    source = detect_source(tmp_path, task="semantic_segmentation")
    assert (source.format.name, [*source.splits]) == ("OxfordPet", ["train", "val"])
    train = source.read("train")
    assert isinstance(train, SemanticAnnotations)
    assert (train.files.tolist(), train.classes) == (["Abyssinian_1.jpg", "beagle_2.jpg"], ("background", "pet"))
    expected = np.zeros((48, 64))
    expected[10:30, 10:30], expected[12:28, 12:28] = 255, 1
    assert np.array_equal(train.labels(0), expected)
    assert source.read("val").files.tolist() == ["beagle_3.jpg"]
    (tmp_path / "annotations" / "test.txt").unlink()
    assert len(detect_source(tmp_path, task="semantic_segmentation").read("all")) == 3
    (tmp_path / "annotations" / "trimaps" / "beagle_2.png").unlink()
    with pytest.raises(DataError, match=r"beagle_2: the mask of this name is missing"):
        source.read("train")
