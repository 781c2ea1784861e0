from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg.data.annotations.detection import DetectionAnnotations, ImageColumns, ObjectColumns, from_columns
from tests.data import made

COUNTS = st.lists(st.integers(0, 4), min_size=1, max_size=8)


def listed(annotations: DetectionAnnotations) -> list[tuple[str, list[tuple[object, ...]]]]:
    """The same content as lists: file, then id, class, box, area and flags of each object."""
    a = annotations
    names = [a.classes[label] for label in a.labels]
    columns = (a.ids.tolist(), names, a.boxes.tolist(), a.areas.tolist(), a.crowd.tolist(), a.difficult.tolist())
    objects = list(zip(*columns, strict=True))
    return [(str(a.path(i)), objects[a.objects(i)]) for i in range(len(a))]


@given(COUNTS, st.data())
def test_subset_takes_images_with_their_objects_in_the_order_asked(counts: list[int], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(counts) - 1)))
    whole = made.annotations(counts)
    part = whole.subset(rows)
    assert listed(part) == [listed(whole)[row] for row in rows]
    assert part.image_ids.tolist() == [whole.image_ids[row] for row in rows]


@given(COUNTS, st.permutations(["class0", "class1", "class2", "other"]), st.integers(1, 4))
def test_relabel_keeps_the_objects_of_the_given_names(counts: list[int], names: list[str], length: int) -> None:
    whole, names = made.annotations(counts), names[:length]
    new = whole.relabel(names)
    assert new.classes == tuple(names)
    assert new.category_ids == tuple({"class0": 3, "class1": 13, "class2": 23}.get(name, -1) for name in names)
    assert listed(new) == [(file, [item for item in items if item[1] in names]) for file, items in listed(whole)]


def test_relabel_logs_what_it_leaves_out(caplog: pytest.LogCaptureFixture) -> None:
    whole = made.annotations([5, 5])
    with caplog.at_level(logging.WARNING):
        whole.relabel(["class0"])
    assert f"left out {(whole.labels > 0).sum()} objects of other classes: class1, class2" in caplog.text


def pack_boxes(boxes: list[list[float]], rows: list[int]) -> DetectionAnnotations:
    return from_columns(
        Path("source.json"),
        {"cat": 1},
        ImageColumns(Path(), ["a.jpg", "b.jpg"], np.arange(2), np.array([[10, 20], [30, 40]], dtype=np.int32)),
        ObjectColumns(
            image_index=np.array(rows),
            boxes=np.array(boxes, dtype=float),
            labels=np.zeros(len(rows), dtype=np.int64),
            ids=np.arange(7, 7 + len(rows)),
            areas=np.array([np.nan] * (len(rows) - 1) + [5.5]),
        ),
    )


def test_pack_sorts_and_drops(caplog: pytest.LogCaptureFixture) -> None:
    boxes = [[1, 2, 50, 60], [3, 3, 3, 8], [-4, 1, 25, 9], [25, 0, 30, 5], [0, 0, 2, 3]]
    packed = pack_boxes(boxes, [1, 0, 0, 0, 0])
    assert packed.boxes.tolist() == [[-4, 1, 25, 9], [0, 0, 2, 3], [1, 2, 50, 60]]  # as the file has them
    assert packed.offsets.tolist() == [0, 2, 3]
    assert packed.ids.tolist() == [9, 11, 7]
    assert packed.areas.tolist() == [20 * 8, 5.5, 39 * 28]  # of the box inside the image where none was given
    assert "a.jpg annotation 8: box (3, 3, 3, 8) has no area" in caplog.text
    assert "a.jpg annotation 10: box (25, 0, 30, 5) lies outside of its image" in caplog.text
    assert caplog.text.count("reaches beyond its image") == 2


def test_description_counts() -> None:
    text = pack_boxes([[0, 0, 1, 1]], [1]).describe()
    assert text == "2 images (1 without objects), 1 object, 1 class"
