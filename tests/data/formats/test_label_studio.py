"""Label Studio's JSON as its export writes it; the bytes of the brush are those of label-studio-converter."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.data.annotations.images import read_image
from detseg.data.annotations.issues import IssueCollector
from detseg.data.formats.format_detection import detect_source
from detseg.data.formats.label_studio import decode_brush
from detseg.errors import DataError
from tests.data import made

# Rows 10 to 12 and columns 20 to 24 without (12, 22), and (40, 3), of 48 x 64 pixels: mask2rle of the converter.
BRUSH = [
    *(0, 0, 48, 0, 57, 27, 255, 10, 79, 0, 194, 127, 251, 172, 3, 9, 255, 238, 176, 9, 255, 227, 0, 159, 255, 141, 211),
    *(128, 71, 255, 193, 251, 192, 0),
]


def result(kind: str, value: dict[str, Any], **changes: Any) -> dict[str, Any]:
    number = str(sum(map(ord, json.dumps(value))))
    sizes = {"original_width": 64, "original_height": 48, "image_rotation": 0}
    return sizes | {"value": value, "id": number, "from_name": "label", "to_name": "image", "type": kind} | changes


def rectangle(x: float, y: float, w: float, h: float, rotation: float = 0, label: str = "cat") -> dict[str, Any]:
    value = {"x": x, "y": y, "width": w, "height": h, "rotation": rotation, "rectanglelabels": [label]}
    return result("rectanglelabels", value)


def annotation(*results: Any, cancelled: bool = False) -> dict[str, Any]:
    return {"id": 1, "completed_by": 1, "result": [*results], "was_cancelled": cancelled, "ground_truth": False}


def task(number: int, image: str, *annotations: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "annotations": [*annotations], "drafts": [], "predictions": [], "data": {"image": image}} | {
        "meta": {},
        **more,
    }


def export(root: Path, *tasks: Any) -> Path:
    file = root / "project-1-at-2023-01-01-00-00-abcdef01.json"
    file.write_text(json.dumps(tasks))
    return file


def test_shapes(tmp_path: Path) -> None:
    made.image(tmp_path / "a.png")
    polygon = {"points": [[25, 25], [50, 25], [25, 75]], "closed": True, "polygonlabels": ["dog"]}
    ellipse = {"x": 50, "y": 50, "radiusX": 12.5, "radiusY": 12.5, "rotation": 90, "ellipselabels": ["dog"]}
    labelled = {"x": 0, "y": 0, "width": 50, "height": 50, "rotation": 0}
    results = [
        rectangle(12.5, 25, 25, 50),
        result("polygonlabels", polygon),
        result("brushlabels", {"format": "rle", "rle": BRUSH, "brushlabels": ["dog"]}),
        result("ellipselabels", ellipse),
        rectangle(50, 50, 25, 25, 90),
        result("rectangle", labelled, id="pair"),
        result("labels", {**labelled, "labels": ["cat"]}, id="pair"),
        result("choices", {**labelled, "choices": ["blurred"]}, id="pair"),
        result("keypointlabels", {"x": 1, "y": 1, "width": 1, "keypointlabels": ["nose"]}),
        result("choices", {"choices": ["good"]}),
    ]
    export(tmp_path, task(1, "/data/upload/3/1a2b3c4d-a.png", annotation(*results)))
    source = detect_source(tmp_path)
    assert source.format.name == "LabelStudio"
    table = source.read("all", "any")
    assert table.classes == ("cat", "dog")
    assert table.labels.tolist() == [0, 1, 1, 1, 0, 0]
    # The ellipse has radii of 8 and 6 pixels and stands upright; the last box is turned about its corner (32, 24).
    expected = [[8, 12, 24, 36], [16, 12, 32, 36], [3, 10, 25, 41], [26, 16, 38, 32], [20, 24, 32, 40], [0, 0, 32, 24]]
    assert table.boxes == pytest.approx(np.array(expected))
    assert table.areas.tolist() == pytest.approx([16 * 24, 192, 15, 48 * math.pi, 192, 32 * 24])
    assert table.masks is not None
    inside = np.zeros((48, 64), dtype=bool)
    inside[10:13, 20:25] = inside[40, 3] = True
    inside[12, 22] = False
    (mask,) = table.masks.draw(np.array([2]), 48, 64)
    assert np.array_equal(mask, inside)
    for text in ("1 rotated boxes become", "1 results of the type keypointlabels", "1 results of the type choices"):
        assert text in made.reported(source)


def test_brushes_of_several_colours(tmp_path: Path) -> None:
    """Runs of different and of equal values, by the description of the bits: RGBA (1, 2, 3, 0) and (9, 9, 9, 9)."""
    widths = "".join(f"{count - 1:04b}" for count in (3, 4, 8, 16))
    runs = f"000{3:03b}" + "".join(f"{value:08b}" for value in (1, 2, 3, 0)) + f"100{3:03b}{9:08b}"
    bits = f"{8:032b}{7:05b}{widths}{runs}"
    data = [int(bits[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(bits), 8)]
    assert decode_brush(data, (1, 2)).tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("/data/upload/3/1a2b3c4d-a%20b.png", "images/1a2b3c4d-a b.png"),
        ("/data/upload/3/1a2b3c4d-a.png", "images/a.png"),
        ("/data/local-files/?d=photos/x/a.png", "x/a.png"),
        ("https://example.org/photos/x/a.png?token=1", "x/a.png"),
        ("s3://bucket/photos/a.png", "x/a.png"),
        ("a.png", "x/a.png"),
    ],
)
def test_addresses_of_images(tmp_path: Path, address: str, file: str) -> None:
    made.image(tmp_path / file)
    made.image(tmp_path / "other" / "b.png", seed=1)
    export(tmp_path, task(1, address, annotation(rectangle(0, 0, 50, 50))))
    assert detect_source(tmp_path).read("all").files.tolist() == [file]


def test_the_last_annotation_counts(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        made.image(tmp_path / f"{name}.png", seed=number)
    cancelled = annotation(rectangle(3, 3, 3, 3), cancelled=True)
    export(
        tmp_path,
        task(1, "a.png", annotation(rectangle(1, 1, 1, 1)), annotation(rectangle(0, 0, 50, 50)), cancelled),
        task(2, "b.png", annotation(), predictions=[{"result": [rectangle(0, 0, 9, 9)]}]),
        task(3, "c.png"),
    )
    source = detect_source(tmp_path)
    table = source.read("all")
    assert (table.files.tolist(), table.boxes.tolist()) == (["a.png", "b.png"], [[0, 0, 32, 24]])
    for what in ("predictions", "cancelled annotations", "annotations before the last of their task"):
        assert f"1 {what} are left out" in made.reported(source)
    assert "1 tasks without an annotation are left out" in made.reported(source)
    issues = IssueCollector()
    detect_source(tmp_path).read("all", "none", issues)
    assert [issue.kind for issue in issues.issues] == ["label-unused"] * 4


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (rectangle("x", 0, 1, 1), r"has x, y, width and height \['x'"),  # type: ignore[arg-type]
        (rectangle(0, 0, 1, 1, label=" "), "has the label ' '"),
        (result("rectanglelabels", {"x": 0, "y": 0, "width": 9, "height": 9, "rectanglelabels": []}), "has no label"),
        (result("polygonlabels", {"points": [[1, 2], [3, 4]], "polygonlabels": ["cat"]}), "has 2 x and 2 y"),
        (result("polygonlabels", {"points": [1, 2], "polygonlabels": ["cat"]}), "has points that are no pairs"),
        (result("brushlabels", {"rle": BRUSH[:9], "brushlabels": ["cat"]}), "has a brush whose RLE is broken"),
        (result("brushlabels", {"rle": [0, 0, 0, *BRUSH[3:]], "brushlabels": ["cat"]}), "has a brush of 0 values"),
    ],
)
def test_broken_results_are_named(tmp_path: Path, broken: Any, message: str) -> None:
    made.image(tmp_path / "a.png")
    good = rectangle(0, 0, 50, 50)
    file = export(tmp_path, task(7, "a.png", annotation(good, broken, good)))
    with pytest.raises(DataError, match=rf"{file}: task 7: result 2 {message}"):
        detect_source(tmp_path).read("all")


@pytest.mark.parametrize(
    ("broken", "message"), [([3, {"result": []}], r"annotations = \[3, .*"), ([{"result": [4]}], r"result = \[4\]")]
)
def test_broken_tasks_are_named(tmp_path: Path, broken: Any, message: str) -> None:
    made.image(tmp_path / "a.png")
    file = export(tmp_path, task(7, "a.png", annotations=broken))
    with pytest.raises(DataError, match=rf"{file}: task 7 has {message}, which is not a list of entries"):
        detect_source(tmp_path).read("all")


def test_images_and_sizes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made.image(tmp_path / "a.png")
    turned = result("rectanglelabels", rectangle(0, 0, 50, 50)["value"], image_rotation=90)
    wrong = result("rectanglelabels", rectangle(0, 0, 50, 50)["value"], original_width=65)
    export(tmp_path, task(1, "a.png", annotation(turned)))
    with caplog.at_level(logging.WARNING):
        assert len(detect_source(tmp_path).read("all").boxes) == 0
    assert "1 results on images that were rotated in Label Studio are left out" in caplog.text
    export(tmp_path, task(1, "a.png", annotation(wrong)))
    table = detect_source(tmp_path).read("all")
    with pytest.raises(DataError, match=r"the image is 64x48 but its annotation says 65x48"):
        read_image(table.path(0), tuple(table.sizes[0].tolist()))
    file = export(tmp_path, task(1, "b.png", annotation(wrong)))
    with pytest.raises(DataError, match=rf"{file}: no image 'b\.png'"):
        detect_source(tmp_path).read("all")
