"""Issues of Cityscapes, LVIS, Open Images and VOC files in any folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detseg import cli
from detseg.data.annotations.cache import MIN_BYTES
from detseg.data.formats.format_detection import detect_any
from detseg.errors import ConfigError
from tests.check.test_checking import coco, kinds, look, write
from tests.data import made
from tests.data.formats.test_cityscapes import frame, shape, write_instances, write_polygons
from tests.data.formats.test_lvis import lvis
from tests.data.formats.test_open_images import line, table


def test_cityscapes(tmp_path: Path) -> None:
    car = np.full((48, 64), 7)
    car[5:20, 10:30] = 26000
    for number in (1, 2):
        write_instances(frame(tmp_path, "train", "aachen", number), car)
    write_polygons(frame(tmp_path, "val", "ulm", 3), [shape("car", (4, 4), (30, 4), (30, 20))])
    result = look(tmp_path)
    assert (result.format, list(result.splits), kinds(result)) == ("Cityscapes", ["train", "val"], {})
    assert result.class_counts["car"] == {"train": 2, "val": 1}
    write_polygons(frame(tmp_path, "val", "ulm", 4), [shape("spaceship", (4, 4), (30, 4), (30, 20))])
    (tmp_path / "leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png").unlink()
    result = look(tmp_path)
    assert kinds(result) == {"label-broken": 1, "image-missing": 1}
    assert "'spaceship', which Cityscapes does not have" in result.of_kind("label-broken")[0].message
    assert result.class_counts["car"] == {"train": 1, "val": 1}


def test_maps_of_labels_of_cityscapes(tmp_path: Path) -> None:
    """The numbers of the classes are not 0 to 18: 7 is road, 11 building, 26 car; 3 is void, and 60 no class."""
    for number, value in enumerate((7, 11, 26, 3), start=1):
        labels = np.full((48, 64), value, np.uint8)
        Image.fromarray(labels).save(f"{frame(tmp_path, 'train', 'aachen', number)}_labelIds.png")
    result = look(tmp_path)
    assert (result.format, list(result.splits), kinds(result)) == ("Cityscapes", ["train"], {})
    counts = {name: parts["train"] for name, parts in result.class_counts.items() if parts["train"]}
    assert counts == {"road": 48 * 64, "building": 48 * 64, "car": 48 * 64}
    stem = frame(tmp_path, "train", "aachen", 5)
    Image.fromarray(np.full((48, 64), 60, np.uint8)).save(f"{stem}_labelIds.png")
    result = look(tmp_path)
    assert kinds(result) == {"mask-undefined": 1}
    assert "have the value 60; the classes are 7, 8, 11, " in result.of_kind("mask-undefined")[0].message


def test_lvis(tmp_path: Path) -> None:
    file = lvis(tmp_path, "train", ["train", "val"])
    result = look(tmp_path)
    assert (result.format, kinds(result), result.class_counts["airplane"]) == ("LVIS", {}, {"all": 1})
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [4, 6, 0, 30]
    del content["images"][1]["coco_url"]
    file.write_text(json.dumps(content))
    assert kinds(look(tmp_path)) == {"box-area": 1, "label-broken": 1, "objects-none": 1}


def test_open_images(tmp_path: Path) -> None:
    lines = [line("b1", "/m/02wbgd", 0.25, 0.5, 0, 1), line("a1", "/m/011k07", 0, 1, 0.5, 0.75)]
    table(tmp_path, "train", *lines)
    result = look(tmp_path)
    assert (result.format, kinds(result)) == ("OpenImages", {})
    wrong = [line("b1", "/m/none", 0.25, 0.5, 0, 1), line("a1", "/m/011k07", 0, "x", 0.5, 0.75), "a1,short"]
    table(tmp_path, "train", *lines, *wrong, line("a1", "/m/011k07", 0.5, 0.5, 0.5, 0.75))
    result = look(tmp_path)
    assert kinds(result) == {"category-unknown": 1, "box-nan": 1, "label-broken": 1, "box-area": 1}
    assert [issue.annotation for issue in result.issues if issue.severity == "error"] == [6, 4, 5]
    assert result.class_counts == {"Tortoise": {"all": 1}, "Bicycle, old": {"all": 1}}


def test_files_of_voc_that_lie_anywhere(tmp_path: Path) -> None:
    for number, stem in enumerate("abcd"):
        made.voc(tmp_path, stem, made.box("cat", 1, 1, 20, 20))
        (tmp_path / "Annotations" / f"{stem}.xml").rename(tmp_path / f"{stem}.xml")
        made.image(tmp_path / f"{stem}.jpg", seed=number)
        (tmp_path / "JPEGImages" / f"{stem}.jpg").unlink(missing_ok=True)
    (tmp_path / "Annotations").rmdir()
    assert kinds(look(tmp_path)) == {}
    (tmp_path / "b.xml").write_text("<annotation><object>")
    for stem in "cd":
        (tmp_path / f"{stem}.jpg").unlink()
    (tmp_path / "d.xml").write_text("<annotation><object>")
    result = look(tmp_path)
    assert kinds(result) == {"label-broken": 2, "image-missing": 1}
    assert result.class_counts == {"cat": {"all": 1}}


@pytest.mark.parametrize("name", ["../0.png", "/etc/0.png", "C:\\pictures\\none.png"])
def test_an_image_outside_of_the_folder(tmp_path: Path, name: str) -> None:
    """It is not looked at, unless one of its name is in the folder."""
    root = tmp_path / "set"
    made.image(tmp_path / "0.png")
    content = coco(root)
    content["images"][0]["file_name"] = name
    (root / "images" / "0.png").rename(root / "images" / "other.png")
    result = look(write(root, content))
    assert kinds(result) == {"image-missing": 1, "image-unknown": 1}
    assert "leads out of the folder of the images" in result.of_kind("image-missing")[0].message
    (root / "images" / "other.png").rename(root / "images" / Path(name.replace("\\", "/")).name)
    assert kinds(look(root)) == {}


def test_a_second_check_of_a_large_file_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    write(tmp_path / "set", coco(tmp_path / "set", bbox=[4, 6, 0, 30]) | {"info": "x" * MIN_BYTES})
    for _ in range(2):
        assert kinds(look(tmp_path / "set")) == {"box-area": 1}
    assert not (tmp_path / "home").exists()


def test_another_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"format='Pascal'`: there is auto, COCO, VOC, .*OpenImages, .*ImageMasks"):
        detect_any(tmp_path, "Pascal")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["check", str(tmp_path), "--format", "Pascal"])
    assert "--format Pascal" in capsys.readouterr().err
