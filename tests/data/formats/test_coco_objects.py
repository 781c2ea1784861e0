from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.data.annotations.issues import IssueCollector
from detseg.data.annotations.masks import MaskReading, pack_many, pack_polygons
from detseg.data.formats.coco import json_stream, reader
from detseg.data.formats.coco.reader import read_coco
from detseg.errors import DataError

HEIGHT, WIDTH = 60, 80


def entries(count: int) -> list[dict[str, Any]]:
    """Annotations of images 0 to 9, with polygons of one or more parts, or with RLE."""
    random = np.random.default_rng(0)
    found = []
    for number in range(count):
        x, y, width, height = random.integers(0, 60, 2).tolist() + random.integers(5, 20, 2).tolist()
        parts = [random.uniform(0, 60, 2 * int(random.integers(3, 9))).round(2).tolist() for _ in range(1 + number % 3)]
        runs = {"counts": [100, 7, HEIGHT * WIDTH - 107], "size": [HEIGHT, WIDTH]}
        entry = {
            "id": number + 1,
            "image_id": number % 10,
            "category_id": 1 + number % 2,
            "bbox": [x, y, width, height],
        }
        found.append(entry | {"segmentation": runs if number % 7 == 3 else parts})
    return found


def write(file: Path, annotations: list[dict[str, Any]], images: range | list[str] = range(10)) -> Path:
    pictures = [{"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH, "flickr": "x"} for i in images]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    file.write_text(json.dumps({"annotations": annotations, "images": pictures, "categories": categories}))
    return file


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = json_stream.read_lists
    monkeypatch.setattr(reader, "read_lists", lambda file, names: pieces(file, names, 2000))


@pytest.fixture
def in_pieces_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*of: object) -> None:
        raise AssertionError("read at once")

    monkeypatch.setattr(reader, "load", fail)


@pytest.mark.usefixtures("in_pieces_alone")
@pytest.mark.parametrize("text", [False, True])
def test_what_is_read_in_pieces_is_what_was_written(tmp_path: Path, text: bool) -> None:
    written = entries(200)
    images: range | list[str] = range(8)
    if text:
        images = [str(i) for i in images]
        written = [entry | {"image_id": str(entry["image_id"])} for entry in written]
    file = write(tmp_path / "a.json", written, images)
    listed = [entry for entry in written if int(entry["image_id"]) < 8]
    found = read_coco(file, tmp_path, "any")
    assert found.masks is not None
    assert sorted(found.ids.tolist()) == [entry["id"] for entry in listed]
    by_id = {entry["id"]: entry for entry in listed}
    for row, number in enumerate(found.ids.tolist()):
        entry = by_id[number]
        x, y, width, height = entry["bbox"]
        assert found.boxes[row].tolist() == [x, y, x + width, y + height]
        assert found.classes[found.labels[row]] == ["cat", "dog"][entry["category_id"] - 1]
        image = int(np.searchsorted(found.offsets, row, side="right")) - 1
        assert found.image_ids[image].item() == entry["image_id"]
        if isinstance(entry["segmentation"], list):
            assert found.masks.segmentation(row, HEIGHT, WIDTH) == entry["segmentation"]
        else:
            assert found.masks.areas(np.array([row]), np.array([[HEIGHT, WIDTH]], dtype=np.int32)).tolist() == [7]


@pytest.mark.usefixtures("in_pieces_alone")
def test_boxes_alone(tmp_path: Path) -> None:
    found = read_coco(write(tmp_path / "a.json", entries(50)), tmp_path, "none")
    assert found.masks is None
    assert len(found.boxes) == 50


@pytest.mark.parametrize("masks", ["any", "valid"])
def test_collecting_reads_the_same(tmp_path: Path, masks: MaskReading) -> None:
    file = write(tmp_path / "a.json", entries(100))
    found = read_coco(file, tmp_path, masks)
    other = read_coco(file, tmp_path, masks, IssueCollector())
    assert found.masks is not None
    assert other.masks is not None
    for name in ("boxes", "labels", "areas", "ids", "offsets"):
        assert np.array_equal(getattr(found, name), getattr(other, name)), name
    for row in range(len(found.ids)):
        texts = [one.masks.segmentation(row, HEIGHT, WIDTH) for one in (found, other) if one.masks]
        assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [1, 2, 3]}, r"annotations\[90\] \(id 91\) has bbox = \[1, 2, 3\]"),
        ({"image_id": None}, r"annotations\[90\] \(id 91\) has image_id = None"),
        ({"iscrowd": "maybe"}, r"annotations\[90\] \(id 91\) has iscrowd = 'maybe'"),
        ({"category_id": 7}, "annotation 91 has category_id 7"),
        ({"segmentation": [[1, 2, 3, 4]]}, "annotation 91 has a polygon .* of 2 points"),
        ({"segmentation": {"counts": [1], "size": [1, 1]}}, "annotation 91 has an RLE of the size"),
        ({"segmentation": None}, "annotation 91 has segmentation = None"),
    ],
)
def test_a_fault_far_behind_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    written = entries(200)
    written[90] |= change
    with pytest.raises(DataError, match=message):
        read_coco(write(tmp_path / "a.json", written), tmp_path, "all")


def test_ids_of_images_that_are_text_far_behind(tmp_path: Path) -> None:
    written = entries(100)
    written[90]["image_id"] = "x"
    images = [*map(str, range(10)), "x"]
    found = read_coco(write(tmp_path / "a.json", written, images), tmp_path)
    assert found.ids[found.objects(10)].tolist() == [91]


def test_many_objects_are_packed_as_each() -> None:
    objects = [entry["segmentation"] for entry in entries(40) if isinstance(entry["segmentation"], list)]
    for changed in ([], [[]], [[[1, 2, 3, 4, 5]]], [[[1, 2, 3, 4, 5, "x"]]], [[[0, 0, 9, 9, 9, 1e6]]]):
        content, spans, errors = pack_many([*objects, *changed, *objects[:3]])
        packed = [content[start:end] for start, end in spans.tolist()]
        assert packed == [*map(pack_polygons, objects), *[b""] * len(changed), *map(pack_polygons, objects[:3])]
        assert [*errors] == [len(objects)] * len(changed)
