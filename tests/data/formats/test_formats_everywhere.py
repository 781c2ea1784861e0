"""Data sets in every format of tools and archives: trained on, checked and converted without an argument."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from torchvision import datasets

from detseg.check.checking import check_dataset
from detseg.data import DetectionAnnotations, DetectionDataModule, SegmentationDataModule, SemanticAnnotations
from detseg.data.formats.conversion import convert
from detseg.data.formats.format_detection import detect_any, detect_source, find_formats
from detseg.errors import DataError
from tests.data import made
from tests.data.formats import test_cvat, test_label_studio, test_public_sets, test_via

STEMS = ("a", "b", "c", "d")


def images(root: Path, folder: str = "images", suffix: str = ".png") -> list[str]:
    return [made.image(root / folder / f"{stem}{suffix}", seed=ord(stem)).name for stem in STEMS]


def cvat(root: Path) -> None:
    body = "".join(test_cvat.image(root, f"{stem}.png", test_cvat.BOX, ord(stem)) for stem in STEMS)
    test_cvat.cvat(root, body.replace("24.50", "24.00"))


def via(root: Path) -> None:
    regions = [test_via.region(test_via.RECT, kind="dog")]
    content = {name: test_via.entry(name, regions) for name in images(root)}
    (root / "via_region_data.json").write_text(json.dumps(content))


def label_studio(root: Path) -> None:
    box = test_label_studio.rectangle(6.25, 12.5, 31.25, 62.5, label="dog")
    tasks = [
        test_label_studio.task(number, f"/data/upload/1/0a1b2c3d-{name}", test_label_studio.annotation(box))
        for number, name in enumerate(images(root))
    ]
    test_label_studio.export(root, *tasks)


def createml(root: Path) -> None:
    objects = [{"label": "dog", "coordinates": {"x": 14, "y": 21, "width": 20, "height": 30}}]
    content: Any = [{"image": name, "annotations": objects} for name in images(root)]
    (root / "annotations.json").write_text(json.dumps(content))


def kitti(root: Path) -> None:
    for stem in STEMS:
        test_public_sets.kitti(root, stem, test_public_sets.CAR.replace("4.50", "4.00").replace("24.25", "24.00"))


def visdrone(root: Path) -> None:
    for stem in STEMS:
        test_public_sets.visdrone(root, "val" if stem == "d" else "train", stem, "4,6,20,30,1,4,0,0")


def wider_face(root: Path) -> None:
    test_public_sets.wider(
        root, (*test_public_sets.WIDER[:3], *test_public_sets.WIDER[6:7], "1", "4 6 20 30 0 0 0 0 0 0")
    )


def penn_fudan(root: Path) -> None:
    (root / "PedMasks").mkdir(parents=True)
    mask = np.zeros((48, 64), np.uint8)
    mask[6:36, 4:24] = 1
    for name in images(root, "PNGImages"):
        cv2.imwrite(str(root / "PedMasks" / name.replace(".png", "_mask.png")), mask)


MAKERS = {
    "CVAT": cvat,
    "VIA": via,
    "LabelStudio": label_studio,
    "CreateML": createml,
    "KITTI": kitti,
    "VisDrone": visdrone,
    "WIDERFACE": wider_face,
    "PennFudan": penn_fudan,
}


def advance(count: int) -> AbstractContextManager[Callable[[], None]]:
    return nullcontext(lambda: None)


@pytest.mark.parametrize("name", MAKERS)
def test_a_detector_learns_from_it(tmp_path: Path, name: str) -> None:
    MAKERS[name](tmp_path)
    for format in ("auto", name):
        data = DetectionDataModule(str(tmp_path), format, transforms=[], num_workers=0)
        assert data.source.format.name == name
        assert len(data.train_annotations) > len(data.val_annotations) > 0
        sample = data.dataset("train")[0]
        assert sample.boxes.tolist() == [[4, 6, 24, 36]]
        assert data.classes[int(sample.labels[0])] in ("dog", "Car", "car", "face", "pedestrian")


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_checked_and_converted(tmp_path: Path, name: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    MAKERS[name](root)
    source = detect_any(root)
    result = check_dataset(source, decode=True, jobs=1, progress=advance)
    assert [issue for issue in result.issues if issue.severity == "error"] == []
    count = {split: len(source.read(split)) for split in source.splits}
    for to in ("COCO", "VOC", "YOLO"):
        (target,) = find_formats(to, "detection")
        convert(source, target, tmp_path / to)
        again = detect_source(tmp_path / to, to)
        for split in source.splits:
            table = again.read(split)
            assert isinstance(table, DetectionAnnotations)
            assert len(table) == count[split]
            assert table.boxes == pytest.approx(np.array([[4, 6, 24, 36]] * len(table)))


@pytest.mark.parametrize(("name", "file"), [("CVAT", "annotations.xml"), ("VIA", "via_region_data.json")])
def test_an_empty_file_of_another_split_is_an_error(tmp_path: Path, name: str, file: str) -> None:
    for split in ("train", "val"):
        MAKERS[name](tmp_path / split)
    assert {*detect_source(tmp_path).splits} == {"train", "val"}
    (tmp_path / "val" / file).write_bytes(b"")
    source = detect_source(tmp_path)
    assert len(source.read("train")) == len(STEMS)
    with pytest.raises(DataError, match=rf"{tmp_path / 'val' / file}: "):
        source.read("val")


@pytest.mark.parametrize("make", [test_public_sets.ade20k, test_public_sets.pets])
def test_a_network_learns_from_its_pixels(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path)
    data = SegmentationDataModule(str(tmp_path), transforms=[], num_workers=0)
    sample = data.dataset("train")[0]
    assert sample.semantic is not None
    assert set(sample.semantic.unique().tolist()) <= {0, 1, 2, 255}
    assert data.val_annotations.classes == data.classes
    source = detect_source(tmp_path, task="semantic_segmentation")
    result = check_dataset(source, decode=True, jobs=1, progress=advance)
    assert [issue for issue in result.issues if issue.severity == "error"] == []


def test_torchvision_reads_the_same(tmp_path: Path) -> None:
    """In the folders that torchvision downloads to."""
    root = tmp_path / "Kitti" / "raw"
    lines = (test_public_sets.CAR, test_public_sets.CYCLIST)
    for stem in STEMS:
        test_public_sets.kitti(root, stem, *lines[: 1 + STEMS.index(stem) % 2])
    table = detect_source(tmp_path / "Kitti").read("all")
    kitti = datasets.Kitti(str(tmp_path))
    for file, target in zip(kitti.images, (target for _, target in kitti), strict=True):
        index = [Path(name).name for name in table.files].index(Path(file).name)
        objects = table.objects(index)
        assert table.boxes[objects].tolist() == [one["bbox"] for one in target]
        assert [table.classes[label] for label in table.labels[objects]] == [one["type"] for one in target]
    faces = tmp_path / "widerface"
    lines = test_public_sets.WIDER
    test_public_sets.wider(faces, (*lines[:3], lines[6], "2", lines[10], "5 6 7 8 0 0 0 0 0 0"))
    (faces / "WIDER_test").mkdir()
    table = detect_source(faces).read("train")
    for index, (_, target) in enumerate(datasets.WIDERFace(str(tmp_path), "train")):
        x, y, width, height = target["bbox"].numpy().T
        assert np.array_equal(table.boxes[table.objects(index)].T, [x, y, x + width, y + height])
    pets = tmp_path / "oxford-iiit-pet"
    test_public_sets.pets(pets)
    semantic = detect_source(pets, task="semantic_segmentation")
    for split, name in (("train", "trainval"), ("val", "test")):
        published = datasets.OxfordIIITPet(str(tmp_path), name, "segmentation")
        labels = semantic.read(split)
        assert isinstance(labels, SemanticAnnotations)
        for index, (_, trimap) in enumerate(published):
            assert labels.path(index).name == published._images[index].name
            assert np.array_equal(labels.labels(index), np.array([0, 1, 0, 255])[np.array(trimap)])
