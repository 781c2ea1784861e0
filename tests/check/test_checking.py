"""Each kind of issue in a generated data set is reported, and no other."""

from __future__ import annotations

import json
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detseg import cli
from detseg.check.checking import CheckResult, check_dataset
from detseg.data.annotations.issues import KINDS
from detseg.data.formats.format_detection import detect_any
from tests.data import made


def look(root: Path, decode: bool = False, jobs: int = 1, **where: Any) -> CheckResult:
    return check_dataset(detect_any(root, **where), decode, jobs, lambda _: nullcontext(lambda: None))


def kinds(result: CheckResult) -> dict[str, int]:
    """Count the issues of each kind, without notes."""
    return dict(Counter(issue.kind for issue in result.issues if issue.severity != "note"))


def coco(root: Path, **changes: Any) -> dict[str, Any]:
    """Four sound images with an object of either class; ``changes`` are for the first annotation."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 48, "width": 64} for i in range(4)]
    for image in images:
        made.image(root / "images" / f"{image['id']}.png", seed=image["id"])
    annotations = [{"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [4, 6, 20, 30]} for i in range(4)]
    annotations[0] |= changes
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write(root: Path, content: dict[str, Any], name: str = "labels.json") -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content))
    return root


def test_a_sound_set_is_clean(tmp_path: Path) -> None:
    result = look(write(tmp_path, coco(tmp_path)), decode=True)
    assert (result.format, list(result.splits), result.issues, result.status) == ("COCO", ["all"], [], 0)
    assert result.class_counts == {"cat": {"all": 2}, "dog": {"all": 2}}
    assert result.image_sizes["all"].tolist() == [[48, 64]] * 4


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"bbox": [4, 6, 0, 30]}, "box-area"),
        ({"bbox": [4, 6, -3, 30]}, "box-negative"),
        ({"bbox": [70, 6, 20, 30]}, "box-outside"),
        ({"bbox": [50, 6, 20, 30]}, "box-beyond"),
        ({"bbox": [4, 6, 0.5, 30]}, "box-tiny"),
        ({"bbox": [0.1, 0.2, 0.5, 0.5]}, "box-normalised"),
        ({"bbox": [4, 6, float("nan"), 30]}, "box-nan"),
        ({"bbox": [4, 6, "wide", 30]}, "box-nan"),
        ({"bbox": [4, 6, 20]}, "box-nan"),
        ({"bbox": None}, "label-broken"),
        ({"category_id": None}, "label-broken"),
        ({"category_id": 7}, "category-unknown"),
        ({"image_id": 9}, "image-unknown"),
        ({"segmentation": [[4, 6, 20, 30]]}, "mask-broken"),
        ({"segmentation": {"size": [1, 1], "counts": [1]}}, "mask-broken"),
        ({"segmentation": [[100, 100, 120, 100, 120, 110]]}, "mask-broken"),
    ],
)
def test_an_annotation_of_coco(tmp_path: Path, change: dict[str, Any], kind: str) -> None:
    result = look(write(tmp_path, coco(tmp_path, **change)))
    assert kinds(result) == {kind: 1}
    (issue,) = result.of_kind(kind)
    assert issue.annotation == change.get("id", 0)
    assert result.status == (2 if KINDS[kind][0] == "error" else 1)


def test_an_edge_of_a_pixel_is_no_issue(tmp_path: Path) -> None:
    for box in ([45, 6, 20, 30], [0, 0, 64, 48], [0, 0, 1, 1], [-1, -1, 20, 20]):
        assert look(write(tmp_path, coco(tmp_path, bbox=box))).issues == []


def test_a_broken_entry_does_not_hide_another(tmp_path: Path) -> None:
    content = coco(tmp_path, bbox=[4, 6, 0, 30])
    content["annotations"][1]["category_id"] = "no number"
    content["annotations"][2]["bbox"] = [4, 6, -1, 3]
    content["images"][3]["file_name"] = None
    result = look(write(tmp_path, content))
    assert kinds(result) == {
        "box-area": 1,
        "label-broken": 2,
        "box-negative": 1,
        "image-unknown": 1,
        "objects-none": 1,
    }
    assert "images[3] (id 3)" in result.of_kind("label-broken")[0].message
    assert "annotations[1] (id 1)" in result.of_kind("label-broken")[1].message


@pytest.mark.parametrize(("low", "used"), [(0, (1, 2)), (1, (0, 1))])
def test_categories_shifted_by_one(tmp_path: Path, low: int, used: tuple[int, int]) -> None:
    content = coco(tmp_path)
    for number, category in enumerate(content["categories"]):
        category["id"] = low + number
    for number, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = used[number % 2]
    result = look(write(tmp_path, content))
    assert kinds(result) == {"category-unknown": 2, "off-by-one": 1}
    assert ("too high" if low == 0 else "too low") in result.of_kind("off-by-one")[0].message


def test_doubled_images_and_categories(tmp_path: Path) -> None:
    content = coco(tmp_path)
    content["images"].append(content["images"][0])
    content["categories"] += [{"id": 2, "name": "hen"}, {"id": 3, "name": "cat"}]
    content["annotations"][0]["category_id"] = 3
    result = look(write(tmp_path, content))
    assert kinds(result) == {"id-doubled": 3}
    assert result.class_counts == {"cat": {"all": 2}, "dog": {"all": 2}}  # both of the name are one


def test_names_and_numbers_of_classes(tmp_path: Path) -> None:
    content = coco(tmp_path, category_id=3)
    content["categories"] += [{"id": 3, "name": "Dog "}, {"id": 4, "name": "cow"}]
    content["annotations"] += [content["annotations"][1] | {"id": 10 + i, "bbox": [i, 7, 20, 30]} for i in range(30)]
    result = look(write(tmp_path, content))
    assert kinds(result) == {"class-names": 1}
    assert "'dog' (32), 'Dog ' (1)" in result.of_kind("class-names")[0].message
    assert [issue.annotation for issue in result.of_kind("class-unused")] == ["cow"]
    assert [issue.annotation for issue in result.of_kind("class-unbalanced")] == ["cat", "Dog "]
    assert result.status == 1


def png(width: int, height: int, length: int = 1000) -> bytes:
    """The beginning of a PNG of this size, whose pixels would take ``length`` bytes."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return start + struct.pack(">I", length) + b"IDAT"


def test_image_files(tmp_path: Path) -> None:
    """Files with one issue each, and files with none."""
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6

    def save(mode: str, name: str, **options: Any) -> Callable[[Path], None]:
        return lambda folder: Image.fromarray(pixels).convert(mode).save(folder / name, **options)

    def cut(folder: Path) -> None:
        save("RGB", "cut.jpg")(folder)
        content = (folder / "cut.jpg").read_bytes()
        (folder / "cut.jpg").write_bytes(content[: len(content) // 2])

    files: dict[str, tuple[str | None, Callable[[Path], None]]] = {
        "none.jpg": ("image-missing", lambda _: None),
        "text.jpg": ("image-unreadable", lambda folder: (folder / "text.jpg").write_text("no image") and None),
        "empty.jpg": ("image-unreadable", lambda folder: (folder / "empty.jpg").write_bytes(b"") and None),
        "bomb.png": ("image-bomb", lambda folder: (folder / "bomb.png").write_bytes(png(20000, 20000)) and None),
        "cut.jpg": ("image-truncated", cut),
        "small.png": ("image-size", lambda folder: Image.new("RGB", (32, 24)).save(folder / "small.png")),
        "turned.jpg": ("image-rotated", save("RGB", "turned.jpg", exif=turned)),
        "jpeg.png": ("image-type", save("RGB", "jpeg.png", format="JPEG")),
        "deep.png": (
            "image-16bit",
            lambda folder: Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 200).save(folder / "deep.png"),
        ),
        "alpha.png": ("image-alpha", save("RGBA", "alpha.png")),
        "print.jpg": ("image-cmyk", save("CMYK", "print.jpg")),
        "grey.jpg": (None, save("L", "grey.jpg")),
        "palette.png": (None, save("P", "palette.png")),
        "sound.bmp": (None, save("RGB", "sound.bmp")),
    }
    (tmp_path / "images").mkdir()
    for _, make in files.values():
        make(tmp_path / "images")
    content = {
        "images": [{"id": i, "file_name": name, "height": 48, "width": 64} for i, name in enumerate(files)],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [4, 6, 20, 30]} for i in range(len(files))],
        "categories": [{"id": 1, "name": "cat"}],
    }
    result = look(write(tmp_path, content), decode=True)
    expected = {name: kind for name, (kind, _) in files.items() if kind}
    assert {Path(issue.file).name: issue.kind for issue in result.issues} == expected
    assert len(result.issues) == len(expected)
    quick = look(tmp_path)
    assert {Path(issue.file).name for issue in quick.issues} == expected.keys() - {"cut.jpg"}


def test_a_turned_image_whose_labels_are_turned_is_sound(tmp_path: Path) -> None:
    content = coco(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 64)).save(tmp_path / "images" / "0.png", exif=exif)
    assert look(write(tmp_path, content)).issues == []


def test_duplicates(tmp_path: Path) -> None:
    content = coco(tmp_path)
    write(
        tmp_path, content | {"images": content["images"][:2], "annotations": content["annotations"][:2]}, "train.json"
    )
    write(tmp_path, content | {"images": content["images"][2:], "annotations": content["annotations"][2:]}, "val.json")
    for number in (1, 3):
        made.image(tmp_path / "images" / f"{number}.png", seed=0)
    result = look(tmp_path)
    assert kinds(result) == {"duplicate": 1, "duplicate-across": 1}
    assert result.of_kind("duplicate")[0].file.endswith("1.png")
    assert result.of_kind("duplicate-across")[0].message.endswith(
        f"3.png (val): the same as {tmp_path}/images/0.png (train)"
    )
    assert result.status == 2


def test_splits(tmp_path: Path) -> None:
    """A class only in validation, an image without objects, and a split without objects."""
    content = coco(tmp_path)
    one, two = content["annotations"][:2]
    write(tmp_path, content | {"images": content["images"][:1], "annotations": [one]}, "train.json")
    write(tmp_path, content | {"images": content["images"][1:3], "annotations": [two]}, "val.json")
    result = look(tmp_path)
    assert result.status == 0
    assert [(issue.kind, issue.annotation) for issue in result.issues] == [
        ("class-unseen", "dog"),
        ("image-unused", None),
        ("image-empty", None),
    ]
    write(tmp_path, content | {"images": content["images"][1:3], "annotations": []}, "val.json")
    assert kinds(look(tmp_path)) == {"objects-none": 1}


def test_labels_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    write(tmp_path, coco(tmp_path), "train.json")
    (tmp_path / "val.json").write_text('{"images": [{"file_name": "0.png"')
    result = look(tmp_path)
    assert kinds(result) == {"labels-unreadable": 1}
    assert list(result.splits) == ["train"]


def test_yolo(tmp_path: Path) -> None:
    lines = {
        "a": "0 .5 .5 .5 .5\n",
        "b": "1 .5 .5 .5 .5\n2 .5 .5 .5 .5\n",
        "c": "1 .5 nan .5 .5\n1 .5 .5 0 .5\n1 .1 .2 .3\n1 .1 .1 .2 .2\nx 1 2 3 4\n",
        "d": "1 .1 .1 .2 .2 .3\n1 .1 .2\n",
        "stray": "1 .5 .5 .5 .5\n",
    }
    for seed, (name, text) in enumerate(lines.items()):
        if name != "stray":
            made.image(tmp_path / "images" / f"{name}.png", seed=seed)
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{name}.txt").write_text(text)
    made.image(tmp_path / "images" / "bare.png", seed=9)
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\n")
    result = look(tmp_path)
    assert kinds(result) == {
        "category-unknown": 1,
        "box-nan": 1,
        "box-area": 1,
        "label-broken": 4,
        "label-missing": 1,
        "label-stray": 1,
    }
    assert [issue.annotation for issue in result.of_kind("label-broken")] == [3, 5, 1, 2]
    assert [Path(issue.file).name for issue in result.of_kind("image-empty")] == ["bare.png"]  # d has broken labels
    for name in ("a", "b", "c", "d", "stray"):
        (tmp_path / "labels" / f"{name}.txt").write_text("2 .5 .5 .5 .5\n1 .4 .4 .2 .2\n")
    assert kinds(look(tmp_path))["off-by-one"] == 1


def test_voc(tmp_path: Path) -> None:
    made.voc(tmp_path, "sound", made.box("cat", 1, 1, 20, 20))
    made.image(tmp_path / "JPEGImages" / "sound.jpg", seed=1)
    made.voc(tmp_path, "empty", made.box("cat", 5, 5, 5, 9) + made.box("cat", 9, 5, 7, 9) + made.box("cat", 1, 1, 9, 9))
    made.image(tmp_path / "JPEGImages" / "empty.jpg", seed=2)
    file = made.voc(tmp_path, "broken", made.box("", 1, 1, 9, 9) + "<object><name>cat</name></object>")
    made.image(tmp_path / "JPEGImages" / "broken.jpg", seed=3)
    file.write_text(file.read_text().replace("</annotation>", made.box("cat", "nan", 1, 9, 9) + "</annotation>"))  # type: ignore[arg-type]
    (tmp_path / "Annotations" / "lost.xml").write_text("<annotation></annotation>")
    made.voc(tmp_path, "cut", "").write_text("<annotation><object>")
    made.image(tmp_path / "JPEGImages" / "cut.jpg", seed=4)
    result = look(tmp_path)
    assert kinds(result) == {"box-area": 1, "box-negative": 1, "label-broken": 3, "box-nan": 1, "image-missing": 1}
    assert result.class_counts == {"cat": {"all": 2}}
    assert not result.of_kind("image-empty")  # not that of the broken labels either
    made.voc(tmp_path, "bare", "")
    assert [Path(issue.file).name for issue in look(tmp_path).of_kind("image-empty")] == ["bare.jpg"]


def test_labelme_and_csv(tmp_path: Path) -> None:
    folder = tmp_path / "labelme"
    shapes: list[Any] = [
        {"label": "cat", "points": [[1, 1], [9, 1], [9, 9]]},
        {"label": "cat", "points": [[1, 1], [9, 1]]},
        {"label": "", "points": [[1, 1], [9, 1], [9, 9]]},
        {"label": "cat", "points": [[1, 1], [9, "x"], [9, 9]]},
    ]
    made.image(folder / "a.png")
    (folder / "a.json").write_text(json.dumps({"shapes": shapes, "imagePath": "a.png"}))
    (folder / "b.json").write_text(json.dumps({"shapes": [], "imagePath": "b.png"}))
    (folder / "c.json").write_text('{"shapes": [], "imagePath": ')
    expected = {"label-broken": 3, "box-nan": 1, "image-missing": 1}
    assert kinds(look(folder)) == expected
    folder = tmp_path / "csv"
    made.image(folder / "a.png")
    rows = ["a.png,cat,1,1,9,9", "a.png,,1,1,9,9", "a.png,cat,1,1,9", "b.png,cat,1,1,9,9", "a.png,cat,1,x,9,9"]
    (folder / "labels.csv").write_text("\n".join(["filename,class,xmin,ymin,xmax,ymax", *rows]))
    result = look(folder)
    assert kinds(result) == {"label-broken": 2, "image-missing": 1, "box-nan": 1}
    assert [issue.annotation for issue in result.of_kind("label-broken")] == [3, 4]


def test_maps_of_labels(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for number, name in enumerate("abc"):
        made.image(tmp_path / "images" / f"{name}.png", seed=number)
        Image.fromarray(np.full((48, 64), number % 2, np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    result = look(tmp_path)
    assert (result.format, result.issues) == ("ImageMasks", [])
    assert result.class_counts == {"sky": {"all": 2 * 48 * 64}, "road": {"all": 48 * 64}}
    made.image(tmp_path / "images" / "lonely.png", seed=7)
    made.image(tmp_path / "images" / "b.png", height=20, seed=1)
    Image.fromarray(np.full((48, 64), 7, np.uint8)).save(tmp_path / "masks" / "c.png")
    result = look(tmp_path)
    assert kinds(result) == {"mask-missing": 1, "mask-undefined": 1, "image-size": 1}
    assert "3072 pixels have the value 7" in result.of_kind("mask-undefined")[0].message
    for name in "abc":
        Image.fromarray(np.array([[1, 2]], np.uint8).repeat(24, 0).repeat(32, 1)).save(
            tmp_path / "masks" / f"{name}.png"
        )
    assert kinds(look(tmp_path))["off-by-one"] == 1


def test_several_processes_see_the_same(tmp_path: Path) -> None:
    """Decoding finds truncated files; several processes share it from 200 images on."""
    content = coco(tmp_path)
    content["images"] = [content["images"][0] | {"id": i, "file_name": f"{i}.png"} for i in range(250)]
    for number in range(4, 250):
        (tmp_path / "images" / f"{number}.png").write_bytes(png(64, 48 + number % 2, 1000 + number))
    write(tmp_path, content)
    one, two = look(tmp_path, decode=True), look(tmp_path, decode=True, jobs=2)
    assert one.issues == two.issues
    assert kinds(one) == {"image-size": 123, "image-truncated": 246}
    assert kinds(look(tmp_path)) == {"image-size": 123}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, coco(tmp_path))
    cli.main(["check", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.endswith("clean\n")
    assert "IoU 0.5 or more with all 100.0 % of 4; small 100.0 % of 4" in printed
    write(tmp_path, coco(tmp_path, bbox=[4, 6, 0, 30]))
    with pytest.raises(SystemExit, match="1"):
        cli.main(["check", str(tmp_path)])
    assert "warning: 1 boxes without area (box-area)" in capsys.readouterr().out
    write(tmp_path, coco(tmp_path, category_id=8))
    with pytest.raises(SystemExit, match="2"):
        cli.main(["check", str(tmp_path), "--json"])
    values = json.loads(capsys.readouterr().out)
    assert values["status"] == "errors"
    assert values["splits"]["all"] == {"images": 4, "without objects": 1, "objects": 3}
    assert [issue["kind"] for issue in values["issues"]] == ["category-unknown", "image-empty"]
    with pytest.raises(SystemExit, match="2"):
        cli.main(["check", str(tmp_path / "none")])
    assert "no such folder" in capsys.readouterr().err
