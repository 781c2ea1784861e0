"""A repaired copy is clean, and the source is as it was."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detseg import cli
from detseg.check.checking import check_dataset
from detseg.check.repair import repair
from detseg.data import COCO, DetectionDataModule
from detseg.data.annotations.images import read_image
from detseg.data.formats.format_detection import detect_any
from detseg.errors import ConfigError, DataError
from tests.check.test_checking import coco, kinds, look, write
from tests.data import made


def state(root: Path) -> dict[str, str]:
    """Every file of a folder, and what is in it."""
    files = sorted(file for file in root.rglob("*") if file.is_file())
    return {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def fix(root: Path, out: Path) -> list[str]:
    """Repair, with what must always hold."""
    before = state(root)
    changes = repair(look(root), out, lambda: None)
    assert state(root) == before
    again = look(out, decode=True)
    assert (kinds(again), again.status) == ({}, 0)
    assert (out / "changes.txt").read_text().splitlines() == changes
    return changes


def test_a_sound_set_stays_as_it_is(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    polygon = [[4, 6, 24.5, 6, 24, 36]]
    content = coco(root, segmentation=polygon)
    content["annotations"][1] |= {"segmentation": {"size": [48, 64], "counts": [1000, 50, 2022]}, "iscrowd": 1}
    content["categories"][0]["id"] = 7
    for annotation in content["annotations"][::2]:
        annotation["category_id"] = 7
    write(root, content)
    assert fix(root, out) == []
    before, after = (look(folder).splits["all"] for folder in (root, out))
    assert (after.classes, after.category_ids) == (before.classes, before.category_ids) == (("dog", "cat"), (2, 7))
    np.testing.assert_array_equal(after.boxes, before.boxes)
    np.testing.assert_array_equal(after.labels, before.labels)
    written = json.loads((out / "annotations" / "all.json").read_text())["annotations"]
    assert written[0]["segmentation"] == polygon
    assert [entry["iscrowd"] for entry in written] == [0, 1, 0, 0]
    assert COCO(str(out)).read("train").describe().startswith("3 images")


def test_boxes_names_and_images(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    content = coco(root, bbox=[50, 6, 20, 30])
    content["annotations"][1] |= {"bbox": [4, 6, 0, 30]}
    content["annotations"][2] |= {"bbox": [0.25, 0.25, 0.5, 0.5], "category_id": 3}
    content["annotations"][3] |= {"bbox": [4, 6, 0.5, 30]}
    content["annotations"] += [{"id": 9, "image_id": 3, "category_id": 1, "bbox": [1, 2, 3, 4]}]
    content["categories"] += [{"id": 3, "name": "cat "}]
    (root / "images" / "0.png").unlink()
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "images" / "2.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[::-1, :, :3]).save(root / "images" / "1.png", exif=exif)
    made.image(root / "images" / "copy.png", seed=3)
    content["images"].append({"id": 5, "file_name": "copy.png", "height": 48, "width": 64})
    changes = fix(write(root, content), out)
    part = look(out).splits["all"]
    assert part.files.tolist() == ["1.png", "2.png", "3.png"]
    assert part.boxes.tolist() == [[16, 12, 48, 36], [1, 2, 4, 6]]
    assert [part.classes[label] for label in part.labels] == ["cat", "cat"]
    assert (read_image(out / "images" / "2.png") == pixels[:, :, :3]).all()
    assert (read_image(out / "images" / "1.png") == pixels[::-1, :, :3]).all()  # as stored, and no viewer turns it
    text = "\n".join(changes)
    for said in (
        "0.png: no such image",
        "copy.png (all): the same as",
        "image-alpha",
        "image-rotated",
        "'cat '",
    ):
        assert said in text
    for said in ("has no area", "scaled from 0..1 to pixels", "a side is below a pixel"):
        assert said in text


def test_clipped_and_split(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    content = coco(root, bbox=[50, 6, 20, 30])
    train, val = (
        content | {"images": content["images"][a:b], "annotations": content["annotations"][a:b]}
        for a, b in ((0, 2), (2, 4))
    )
    made.image(root / "images" / "3.png", seed=0)  # the same as 0.png
    write(root, train, "train.json")
    changes = fix(write(root, val, "val.json"), out)
    data = DetectionDataModule(str(out))
    assert data.train_annotations.boxes.tolist() == [[50, 6, 64, 36], [4, 6, 24, 36], [4, 6, 24, 36]]
    assert data.val_annotations.files.tolist() == ["2.png"]
    assert len(changes) == 2


def test_voc_becomes_coco(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    made.voc(root, "a", made.box("cat", 5, 5, 5, 9) + made.box("dog", 1, 1, 9, 9, "<difficult>1</difficult>"))
    made.image(root / "JPEGImages" / "a.jpg", seed=1)
    made.voc(root, "b", made.box("dog", 11, 6, 20, 30))
    fix(root, out)
    part = look(out).splits["all"]
    assert (part.classes, part.boxes.tolist()) == (("cat", "dog"), [[0, 0, 9, 9], [10, 5, 20, 30]])


def test_shares_in_voc(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    made.voc(root, "a", made.box("cat", 0.25, 0.5, 0.75, 1))
    assert kinds(look(root)) == {"box-normalised": 1}
    fix(root, out)
    assert look(out).splits["all"].boxes.tolist() == [[16, 24, 48, 48]]


def test_maps_of_labels(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    (root / "masks").mkdir(parents=True)
    for number, name in enumerate("abc"):
        made.image(root / "images" / f"{name}.png", seed=number)
        Image.fromarray(np.array([[0, 1], [number * 7, 255]], np.uint8).repeat(24, 0).repeat(32, 1)).save(
            root / "masks" / f"{name}.png"
        )
    made.image(root / "images" / "lonely.png", seed=7)
    (root / "classes.txt").write_text("sky\nroad\n")
    changes = fix(root, out)
    part = look(out).splits["all"]
    assert part.files.tolist() == ["a.png", "b.png", "c.png"]
    assert part.labels(1)[::24, ::32].tolist() == [[0, 1], [255, 255]]
    assert len([line for line in changes if line.startswith("set to void")]) == 2


def test_an_image_goes_with_its_own_labels_alone(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    for number, name in enumerate(("train/001", "train/002", "valid/001")):
        made.image(root / f"{name}.jpg", seed=number)
        (root / f"{name}.xml").write_text(f"<annotation>{made.box('cat', 5, 5, 20 + number, 30)}</annotation>")
    (root / "train" / "001.xml").write_text("<annotation>")
    (change,) = fix(root, out)
    assert change.startswith(f"left out, with {root / 'train' / '001.jpg'}: {root / 'train' / '001.xml'}: broken XML")
    parts = look(out).splits
    assert {split: part.boxes.tolist() for split, part in parts.items()} == {
        "train": [[4, 4, 21, 30]],
        "val": [[4, 4, 22, 30]],
    }


def test_classes_that_differ_in_more_than_white_space_stay(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    content = coco(root)
    names = ["A", "a", "1-1", "11", "1 1", " 1  1"]
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    for number in range(4, 6):
        made.image(root / "images" / f"{number}.png", seed=number)
        content["images"].append(content["images"][0] | {"id": number, "file_name": f"{number}.png"})
        content["annotations"].append(content["annotations"][0] | {"id": number, "image_id": number})
    for number, annotation in enumerate(content["annotations"], start=1):
        annotation["category_id"] = number
    result = look(write(root, content))
    messages = [issue.message for issue in result.of_kind("class-names")]
    assert messages == [
        "classes that may be one: 'A' (1), 'a' (1)",
        "classes that may be one: '11' (1), '1 1' (1), ' 1  1' (1)",
    ]
    assert repair(result, out, lambda: None) == ["class ' 1  1' renamed to '1 1'"]
    part = look(out).splits["all"]
    assert [part.classes[label] for label in part.labels] == ["A", "a", "1-1", "11", "1 1", "1 1"]


def test_maps_in_folders(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    frames = ("train/aachen/x", "train/bonn/x", "val/ulm/y")
    for number, frame in enumerate(frames):
        made.image(root / "leftImg8bit" / f"{frame}_leftImg8bit.png", seed=number)
        labels = root / "gtFine" / f"{frame}_gtFine_labelIds.png"
        labels.parent.mkdir(parents=True)
        Image.new("L", (64, 48), (7, 8, 11)[number]).save(labels)  # road, sidewalk, building
    assert fix(root, out) == []
    shown = {
        split: [part.labels(row)[0, 0].item() for row in range(len(part))] for split, part in look(out).splits.items()
    }
    assert shown == {"train": [1, 0], "val": [2]}  # in the order of the new names, of which one has its folders
    first, second = sorted((out / "images" / "train").iterdir())
    assert (read_image(second) == read_image(root / "leftImg8bit" / "train/aachen/x_leftImg8bit.png")).all()
    assert (read_image(first) == read_image(root / "leftImg8bit" / "train/bonn/x_leftImg8bit.png")).all()


def test_a_name_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    for name, box in (("b\udce9", "0 3 0.5 0.1 0.1"), ("c", "0 0.5 0.5 0.25 0.5")):  # the byte E9, as Python has it
        made.image(root / "images" / "new.png", seed=len(name)).rename(root / "images" / f"{name}.png")
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{name}.txt").write_text(box)
    (root / "data.yaml").write_text("names: [cat]")
    with pytest.raises(SystemExit, match="1"):
        cli.main(["check", str(root), "--html", str(tmp_path / "page.html"), "--fix", str(out)])
    for text in (capsys.readouterr().out, (tmp_path / "page.html").read_text(), (out / "changes.txt").read_text()):
        assert "images/b\\udce9.png annotation 1: box" in text
    assert look(out).splits["all"].files.tolist() == ["images/b\udce9.png", "images/c.png"]


def test_what_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    content = coco(root)
    for annotation in content["annotations"]:
        annotation["category_id"] = 3 - annotation["id"] % 2
    with pytest.raises(DataError, match="all numbers look one too high"):
        repair(look(write(root, content)), tmp_path / "out", lambda: None)
    sound = look(write(root, coco(root)))
    with pytest.raises(ConfigError, match="lies in the data set"):
        repair(sound, root / "new", lambda: None)
    with pytest.raises(ConfigError, match="is not an empty folder"):
        repair(sound, root / "images", lambda: None)
    assert not (root / "new").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "data", coco(tmp_path / "data", bbox=[4, 6, 0, 30]))
    with pytest.raises(SystemExit, match="1"):
        cli.main(["check", str(root), "--fix", str(tmp_path / "out")])
    assert "1 changes, listed in" in capsys.readouterr().err
    cli.main(["check", str(tmp_path / "out")])
    capsys.readouterr()
    for place in (root / "new", root / "labels.json" / "below", tmp_path / "out"):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["check", str(root), "--fix", str(place)])
        said = capsys.readouterr()
        assert f"error: --fix {place}: " in said.err
        assert not said.out  # before the check


def test_listed_near_duplicates_are_left_out_with_their_objects(tmp_path: Path) -> None:
    root, out, table = tmp_path / "data", tmp_path / "out", tmp_path / "duplicates.csv"
    write(root, coco(root))
    source = detect_any(root)
    name = str(source.read("all").path(2).relative_to(root))
    table.write_text(f"image,same_as,similarity\n{name},{name.replace('2', '0')},0.9876\n")
    result = check_dataset(source, False, 1, lambda _: nullcontext(lambda: None), table)
    assert kinds(result) == {"near-duplicate": 1}
    repair(result, out, lambda: None)
    assert sorted(path.name for path in (out / "images").iterdir()) == ["0.png", "1.png", "3.png"]
    content = json.loads((out / "annotations" / "all.json").read_text())
    assert len(content["annotations"]) == 3
    for text, message in (("image,same_as\n9.png,0.png", "line 2: .* has no image 9.png"), ("a,b", "has no columns")):
        table.write_text(text)
        with pytest.raises(DataError, match=message):
            check_dataset(source, False, 1, lambda _: nullcontext(lambda: None), table)
