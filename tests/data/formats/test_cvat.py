"""CVAT's XML as its exports write it: attributes, order and names of frames."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest

from detseg.data.annotations.images import read_image
from detseg.data.annotations.issues import IssueCollector
from detseg.data.formats.cvat import CvatFormat
from detseg.data.formats.format_detection import detect_source
from detseg.data.formats.layout import Tree
from detseg.errors import DataError
from tests.data import made

LABELS = "".join(
    f"<label><name>{name}</name><color>#fa3253</color><type>{kind}</type><attributes></attributes></label>"
    for name, kind in (("dog", "any"), ("cat", "polygon"), ("good_frame", "tag"), ("nose", "points"))
)
TASK = f"""<task><id>4</id><name>t</name><size>2</size><mode>annotation</mode><start_frame>0</start_frame>
<stop_frame>1</stop_frame><frame_filter></frame_filter><labels>{LABELS}</labels></task>"""
BOX = '<box label="dog" source="manual" occluded="0" xtl="4.00" ytl="6.00" xbr="24.50" ybr="36.00" z_order="0"></box>'


def cvat(root: Path, body: str, meta: str = TASK, name: str = "annotations.xml") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    file = root / name
    head = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>'
    file.write_text(
        f"{head}{meta}<dumped>2023-08-11 03:45:18.553526+00:00</dumped></meta>\n{body}\n</annotations>\n",
        encoding="utf-8",
    )
    return file


def image(root: Path, name: str, shapes: str, number: int = 0) -> str:
    made.image(root / "images" / name, seed=number)
    return f'<image id="{number}" name="{name}" width="64" height="48">\n{shapes}\n</image>'


def test_shapes_of_images(tmp_path: Path) -> None:
    inside = np.array([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 1, 0]], dtype=bool)
    shapes = f"""{BOX}
    <polygon label="cat" source="manual" occluded="0" points="1.00,2.00;11.00,2.00;1.00,22.00" z_order="0"></polygon>
    <mask label="cat" source="semi-auto" occluded="0" rle="1, 2, 1, 4, 2, 1, 1" left="30" top="20" width="4" height="3"
     z_order="0"></mask>
    <ellipse label="dog" source="manual" occluded="0" cx="30.00" cy="20.00" rx="10.00" ry="4.00" rotation="90.00"
     z_order="0"></ellipse>
    <box label="dog" source="manual" occluded="0" xtl="10.00" ytl="10.00" xbr="30.00" ybr="20.00" rotation="30.00"
     z_order="0"></box>
    <polyline label="dog" source="manual" occluded="0" points="1.00,1.00;5.00,5.00" z_order="0"></polyline>
    <points label="nose" source="manual" occluded="0" points="1.00,1.00" z_order="0"></points>
    <cuboid label="dog" source="manual" occluded="0" xtl1="1" ytl1="1" z_order="0"></cuboid>
    <skeleton label="dog" source="manual" z_order="0"><points label="nose" outside="0" points="1,2"></points></skeleton>
    <tag label="good_frame" source="manual"></tag>"""
    cvat(tmp_path, image(tmp_path, "a.png", shapes) + image(tmp_path, "b.png", "", 1))
    (source,) = CvatFormat().detect(Tree(tmp_path))
    table = source.read("all", "any")
    assert table.classes == ("dog", "cat")
    assert (table.files.tolist(), table.offsets.tolist()) == (["images/a.png", "images/b.png"], [0, 5, 5])
    # A box turned by 30 degrees about its centre: half sides of (20 cos + 10 sin) / 2 and (20 sin + 10 cos) / 2.
    wide, high = 10 * math.cos(math.pi / 6) + 5 * 0.5, 10 * 0.5 + 5 * math.cos(math.pi / 6)
    expected = [
        [4, 6, 24.5, 36],
        [1, 2, 11, 22],
        [30, 20, 34, 23],
        [26, 10, 34, 30],
        [20 - wide, 15 - high, 20 + wide, 15 + high],
    ]
    assert table.boxes == pytest.approx(np.array(expected))
    assert table.areas[:4] == pytest.approx([20.5 * 30, 100, inside.sum(), 40 * math.pi])
    assert table.masks is not None
    (mask,) = table.masks.draw(np.array([2]), 48, 64)
    assert np.array_equal(mask, np.pad(inside, ((20, 25), (30, 30))))
    assert [table.masks.mask_types[i] > 0 for i in range(5)] == [False, True, True, True, False]
    for what in ("polyline", "points", "cuboid", "skeleton", "tag"):
        assert f"1 shapes of the type {what} are left out" in made.reported(source)
    assert "1 rotated boxes become the boxes around them" in made.reported(source)
    issues = IssueCollector()
    source.read("all", "any", issues)
    assert sorted(issue.kind for issue in issues.issues) == ["label-unused"] + ["shape-unsupported"] * 5


def test_subsets_of_a_project_are_splits(tmp_path: Path) -> None:
    meta = f"<project><id>3</id><tasks></tasks><subsets>Train\nValidation</subsets><labels>{LABELS}</labels></project>"
    body = ""
    for number, (subset, box) in enumerate((("Train", BOX), ("Validation", BOX.replace("4.00", "2.00", 1)))):
        made.image(tmp_path / "images" / subset / "a.png", seed=number)
        body += f'<image id="{number}" name="a.png" subset="{subset}" task_id="3" width="64" height="48">{box}</image>'
    cvat(tmp_path, body, meta)
    source = detect_source(tmp_path)
    assert source.format.name == "CVAT"
    train, val = source.read("train"), source.read("val")
    assert (train.files.tolist(), val.files.tolist()) == (["images/Train/a.png"], ["images/Validation/a.png"])
    assert (train.boxes[0, 0], val.boxes[0, 0]) == (4, 2)


def test_files_in_folders_of_splits(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val")):
        cvat(tmp_path / split, image(tmp_path / split, "a.png", BOX, number))
    source = detect_source(tmp_path)
    for split in ("train", "val"):
        assert source.read(split).path(0) == tmp_path / split / "images" / "a.png"


def at(frame: int, x: float, more: str = 'outside="0"') -> str:
    return (
        f'<box frame="{frame}" keyframe="1" {more} occluded="0" xtl="{x:.2f}" ytl="6.00" xbr="{x + 10:.2f}" '
        f'ybr="36.00" z_order="0"></box>'
    )


def video(root: Path, tracks: str, frames: range = range(10, 19, 2)) -> Path:
    task = TASK.replace("<stop_frame>1<", "<stop_frame>18<").replace("<start_frame>0<", "<start_frame>10<")
    task = task.replace("<frame_filter>", "<frame_filter>step=2")
    task = task.replace("</task>", "<original_size><width>64</width><height>48</height></original_size></task>")
    for frame in frames:
        made.image(root / "images" / f"frame_{frame:06d}.png", seed=frame)
    return cvat(root, tracks, task)


def test_tracks_are_interpolated_between_key_frames_and_until_they_leave(tmp_path: Path) -> None:
    outside, turned = 'outside="1"', ('outside="0" rotation="350.00"', 'outside="0" rotation="20.00"')
    tracks = (
        f'<track id="0" label="dog" source="manual">{at(10, 0)}{at(14, 8)}{at(18, 8, outside)}</track>'
        f'<track id="1" label="cat" source="manual">{at(14, 20)}</track>'
        f'<track id="2" label="dog" source="manual">{at(10, 30, turned[0])}{at(16, 30, turned[1])}'
        f"{at(18, 30, outside)}</track>"
    )
    video(tmp_path, tracks)
    table = detect_source(tmp_path).read("all")
    assert table.files.tolist() == [f"images/frame_{frame:06d}.png" for frame in range(10, 19, 2)]
    names = [[table.classes[label] for label in table.labels[table.objects(row)]] for row in range(5)]
    assert names == [["dog", "dog"], ["dog", "dog"], ["dog", "cat", "dog"], ["dog", "cat", "dog"], ["cat"]]
    assert [table.boxes[table.objects(row)][0, 0] for row in range(4)] == [0, 4, 8, 8]
    assert [table.boxes[table.objects(row)][1, 0] for row in (2, 3)] == [20, 20]
    assert table.boxes[table.objects(4)].tolist() == [[20, 6, 30, 36]]
    # From 350 to 20 degrees by the shorter way: 350, 0, 10, 20, about the centre (35, 21).
    halves = [5 * abs(math.cos(math.radians(a))) + 15 * abs(math.sin(math.radians(a))) for a in (350, 0, 10, 20)]
    lefts = [table.boxes[table.objects(row)][-1, 0] for row in range(4)]
    assert lefts == pytest.approx([35 - half for half in halves])


def test_polygons_and_masks_of_tracks(tmp_path: Path) -> None:
    def polygon(frame: int, points: str, outside: int) -> str:
        return f'<polygon frame="{frame}" keyframe="1" outside="{outside}" occluded="0" points="{points}"></polygon>'

    first, second = "1,1;9,1;9,9", "1,1;9,1;9,9;1,9"
    mask = '<mask frame="10" keyframe="1" outside="0" occluded="0" rle="0, 4" left="1" top="2" width="2" height="2"/>'
    tracks = (
        f'<track id="0" label="dog">{polygon(10, first, 0)}{polygon(14, first, 0)}{polygon(18, second, 1)}</track>'
        f'<track id="1" label="cat">{mask}</track>'
    )
    video(tmp_path, tracks)
    source = detect_source(tmp_path)
    table = source.read("all", "all")
    assert np.diff(table.offsets).tolist() == [2, 1, 1, 0, 0]
    assert "1 polygons between two key frames are left out" in made.reported(source)


def test_frames_without_an_image_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = video(tmp_path, f'<track id="0" label="dog">{at(10, 0)}{at(12, 4)}{at(14, 8)}</track>', range(10, 13, 2))
    with caplog.at_level(logging.WARNING):
        assert len(detect_source(tmp_path).read("all")) == 2
    assert "1 frames of a video have no image, and are left out" in caplog.text
    for frame in (10, 12):
        (tmp_path / "images" / f"frame_{frame:06d}.png").unlink()
    with pytest.raises(DataError, match=rf"{file}: no image of its frames, such as frame_000010\.png"):
        detect_source(tmp_path).read("all")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (BOX.replace('"4.00"', '"four"'), r"has corners .*four"),
        (BOX.replace('xtl="4.00"', ""), r"has corners .*None"),
        (BOX.replace('"dog"', '" "'), "has no label"),
        ('<polygon label="cat" points="1,2;3,4"/>', "has 2 x and 2 y"),
        ('<polygon label="cat"/>', "has x"),
        ('<mask label="cat" rle="1, 2" left="0" top="0" width="2" height="2"/>', "has runs of 3 pixels"),
        ('<mask label="cat" rle="0, 4" left="63" top="0" width="2" height="2"/>', "has a mask of 2x2 at .63, 0., but"),
        ('<mask label="cat" rle="4" left="0" top="0" width="2" height="2"/>', "has a mask without a pixel"),
        ('<mask label="cat" rle="x" left="0" top="0" width="2" height="2"/>', "lacks whole numbers as rle"),
    ],
)
def test_broken_shapes_are_named(tmp_path: Path, shape: str, message: str) -> None:
    file = cvat(tmp_path, image(tmp_path, "a.png", BOX + shape + BOX.replace("4.00", "5.00")))
    with pytest.raises(DataError, match=rf"{file}: image 'a\.png': shape 2 \(.*\) {message}"):
        detect_source(tmp_path).read("all")
    issues = IssueCollector()
    assert len(detect_source(tmp_path).read("all", "any", issues).boxes) == 2
    assert len(issues.issues) == 1


def test_broken_files_are_named(tmp_path: Path) -> None:
    file = cvat(tmp_path, image(tmp_path, "a.png", BOX))
    source = detect_source(tmp_path)
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(DataError, match=rf"{file}: no image 'a\.png'"):
        detect_source(tmp_path).read("all")
    file.write_text(file.read_text()[:-40])
    with pytest.raises(DataError, match=rf"{file}: broken XML"):
        source.read("all")
    wrong = at(10, 0).replace('frame="10"', 'frame="x"')
    video(tmp_path, f'<track id="7" label="dog">{wrong}</track>')
    with pytest.raises(DataError, match=rf"{file}: track '7' has a shape with frame = 'x'"):
        detect_source(tmp_path).read("all")


def test_a_stated_size_is_compared_with_the_image(tmp_path: Path) -> None:
    cvat(tmp_path, image(tmp_path, "a.png", BOX).replace('width="64"', 'width="65"'))
    table = detect_source(tmp_path).read("all")
    with pytest.raises(DataError, match=r"the image is 64x48 but its annotation says 65x48"):
        read_image(table.path(0), tuple(table.sizes[0].tolist()))
