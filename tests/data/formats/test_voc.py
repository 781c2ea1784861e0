from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from detseg.data.formats.voc.layout import find_ids, find_splits, find_voc
from detseg.data.formats.voc.reader import read_voc
from detseg.errors import DataError
from tests.data import made


def test_fields(tmp_path: Path) -> None:
    hard = "<difficult>1</difficult>"
    made.voc(tmp_path, "b", made.box("wheel", 1, 1, 64, 48) + made.box("axle", 10.4, 20, 30, 40.5, hard))
    made.voc(tmp_path, "a", "")
    made.voc(tmp_path, "c", made.box("axle", 5, 6, 7, 8, "<part><name>x</name></part><difficult></difficult>"))
    found = read_voc(tmp_path, ["b", "a", "c"])
    assert found.classes == ("axle", "wheel")
    assert found.category_ids == (1, 2)
    assert found.image_ids.tolist() == ["b", "a", "c"]
    assert found.path(1) == tmp_path / "JPEGImages" / "a.jpg"
    assert found.sizes.tolist() == [[48, 64]] * 3
    assert found.offsets.tolist() == [0, 2, 2, 3]
    assert found.boxes.tolist() == [[0, 0, 64, 48], [9.4, 19, 30, 40.5], [4, 5, 7, 8]]
    assert found.labels.tolist() == [1, 0, 0]
    assert found.difficult.tolist() == [False, True, False]
    assert found.areas.tolist() == [64 * 48, pytest.approx(20.6 * 21.5), 9]
    assert found.ids.tolist() == [1, 2, 3]
    assert not found.crowd.any()


@pytest.mark.parametrize("size", ["", "<width>0</width><height>0</height>", "<width>?</width><height>48</height>"])
def test_a_missing_size_is_read_from_the_image(tmp_path: Path, size: str) -> None:
    made.voc(tmp_path, "a", made.box("cat", 1, 1, 100, 100), size)
    assert read_voc(tmp_path, ["a"]).sizes.tolist() == [[48, 64]]


def test_the_classes_are_the_names_found_in_order(tmp_path: Path) -> None:
    made.voc(tmp_path, "a", made.box("tvmonitor", 1, 1, 10, 10) + made.box("aeroplane", 1, 1, 10, 10))
    found = read_voc(tmp_path, ["a"])
    assert found.classes == ("aeroplane", "tvmonitor")
    assert found.labels.tolist() == [1, 0]


def test_boxes_without_area_are_dropped_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    point, thin, inverted = (made.box("cat", *corners) for corners in ((50, 33, 50, 33), (5, 1, 5, 9), (9, 1, 4, 9)))
    made.voc(tmp_path, "a", point + made.box("cat", 5, 5, 6, 6) + thin + inverted)
    found = read_voc(tmp_path, ["a"])
    assert found.boxes.tolist() == [[4, 4, 6, 6]]
    assert found.ids.tolist() == [2]
    assert "a.jpg annotation 1: box (50, 33, 50, 33) has no area" in caplog.text
    assert "a.jpg annotation 3: box (5, 1, 5, 9) has no area" in caplog.text
    assert "a.jpg annotation 4: box (9, 1, 4, 9) has its second corner before the first" in caplog.text


def agrees(root: Path) -> None:
    """Compare with a plain loop over the files."""
    folder = next(path for path in root.iterdir() if path.name.lower() == "annotations")
    found = read_voc(root, find_ids(root, None))
    for i, stem in enumerate(sorted(file.stem for file in folder.glob("*.xml"))):
        tree = ElementTree.parse(folder / f"{stem}.xml")
        size = [float(tree.findtext(f"size/{key}") or 0) for key in ("height", "width")]
        assert found.sizes[i].tolist() == size
        expected = []
        for entry in tree.findall("object"):
            x1, y1, x2, y2 = (float(entry.findtext(f"bndbox/{key}") or 0) for key in ("xmin", "ymin", "xmax", "ymax"))
            if x1 < x2 and y1 < y2:
                corners = [max(x1 - 1, 0), max(y1 - 1, 0), min(x2, size[1]), min(y2, size[0])]
                expected.append((entry.findtext("name"), entry.findtext("difficult") == "1", corners))
        rows = found.objects(i)
        names = [found.classes[label] for label in found.labels[rows]]
        flags, boxes = found.difficult[rows].tolist(), found.boxes[rows].tolist()
        assert list(zip(names, flags, boxes, strict=True)) == expected


@pytest.mark.parametrize(
    "name", ["raccoon", "bccd", "voc2012_mini", "fridge_voc", "voc2012_seg_icevision", "voc2011_seg_mini"]
)
def test_agrees_with_a_plain_loop_on_real_files(shared_data: Path, name: str) -> None:
    agrees(shared_data / name)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (made.box("", 1, 1, 5, 5), "object 1 has no name"),
        (made.box("cat", 1, 1, 5, 5) + "<object><name>cat</name></object>", "object 2 has no xmin"),
        (made.box("cat", 1, 1, 5, 5).replace("<xmax>5</xmax>", "<xmax>wide</xmax>"), "object 1 has xmax = 'wide'"),
        (made.box("cat", 1, float("nan"), 5, 5), "object 1 has ymin = 'nan'"),
        ("<object>", "broken XML"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, body: str, message: str) -> None:
    made.voc(tmp_path, "broken", body)
    with pytest.raises(DataError, match=rf"broken\.xml: {message}"):
        read_voc(tmp_path, ["broken"])


def test_entities_are_refused(tmp_path: Path) -> None:
    file = made.voc(tmp_path, "broken", "")
    file.write_text('<!DOCTYPE a [<!ENTITY b "c">]><annotation><folder>&b;</folder></annotation>')
    with pytest.raises(DataError, match=r"broken\.xml: broken XML"):
        read_voc(tmp_path, ["broken"])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder annotations"):
        read_voc(tmp_path, ["a"])
    made.voc(tmp_path, "a", "")
    with pytest.raises(DataError, match=r"absent\.xml: no image of this name in .*JPEGImages"):
        read_voc(tmp_path, ["absent"])
    made.image(tmp_path / "JPEGImages" / "absent.png")
    with pytest.raises(DataError, match=r"absent\.xml: cannot read"):
        read_voc(tmp_path, ["absent"])
    with pytest.raises(DataError, match=r"ImageSets/Main/train\.txt: cannot read"):
        find_ids(tmp_path, "train")


@pytest.mark.parametrize("below", [".", "VOC2007", "VOCdevkit/VOC2012"])
def test_the_folder_is_found(tmp_path: Path, below: str) -> None:
    made.voc(tmp_path / below, "a", "")
    assert find_voc(tmp_path) == tmp_path / below


def test_which_folder_is_asked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no VOC data set"):
        find_voc(tmp_path)
    for year in (2007, 2012):
        made.voc(tmp_path / f"VOCdevkit/VOC{year}", "a", "")
    with pytest.raises(DataError, match=r"VOC2007, .*VOC2012; give one of them"):
        find_voc(tmp_path)


@pytest.mark.parametrize(
    ("lists", "splits"),
    [
        (("train", "val", "trainval", "test"), ("train", "val")),
        (("trainval", "test"), ("trainval", "test")),
        (("train", "test"), ("train", "test")),
        (("trainval",), None),
        ((), None),
    ],
)
def test_splits(tmp_path: Path, lists: tuple[str, ...], splits: tuple[str, str] | None) -> None:
    for name in lists:
        file = tmp_path / "ImageSets" / "Main" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{name}_1\n{name}_2 -1\n\n")
        assert find_ids(tmp_path, name) == [f"{name}_1", f"{name}_2"]
    assert find_splits(tmp_path) == splits


def test_lists_are_utf8_whatever_the_locale(tmp_path: Path) -> None:
    """With the byte order mark that some editors begin a file with, and where Python takes text for ASCII."""
    (tmp_path / "train.txt").write_bytes("\ufeffété\nb 1\n".encode())
    code = "import sys; from pathlib import Path; from detseg.data.formats.voc.layout import read_list"
    code += "; print(ascii(read_list(Path(sys.argv[1]))))"
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, "train.txt"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | plain, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ascii(["été", "b"])


def test_all_images_where_there_are_no_lists(tmp_path: Path) -> None:
    for stem in ("b", "a", "c"):
        made.voc(tmp_path, stem, "")
    assert find_ids(tmp_path, None) == ["a", "b", "c"]
    assert np.array_equal(read_voc(tmp_path, ["a", "b", "c"]).offsets, np.zeros(4))
