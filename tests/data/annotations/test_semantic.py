"""Files of labels, and the maps made of them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from detseg.data.annotations.semantic import (
    LabelFiles,
    SemanticAnnotations,
    by_stem,
    find_classes,
    read_semantic_mask,
    semantic_masks,
)
from detseg.draw import save_labels
from detseg.errors import DataError

NUMBERS = np.arange(48, dtype=np.uint8).reshape(6, 8) % 5


def sbd(path: Path, numbers: np.ndarray) -> Path:
    """A file as SBD has them: a struct GTcls with Boundaries, Segmentation and CategoriesPresent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    boundaries = np.empty((20, 1), dtype=object)
    for row in range(20):
        boundaries[row, 0] = np.zeros(numbers.shape, dtype=np.uint8)
    present = np.setdiff1d(numbers, [0]).astype(np.uint8)
    struct = {"Boundaries": boundaries, "Segmentation": numbers, "CategoriesPresent": present}
    savemat(path, {"GTcls": struct}, do_compression=True)
    return path


@pytest.mark.parametrize("kind", ["palette", "grey", "16 bits", "mat"])
def test_numbers_are_read_as_they_are(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("a.mat" if kind == "mat" else "a.png")
    match kind:
        case "palette":
            save_labels(NUMBERS, path)
        case "mat":
            sbd(path, NUMBERS)
        case _:
            Image.fromarray(NUMBERS.astype(np.uint8 if kind == "grey" else np.uint16)).save(path)
    numbers = read_semantic_mask(path)
    assert numbers.dtype == np.uint8
    assert np.array_equal(numbers, NUMBERS)
    assert LabelFiles(np.array([str(path)]), 5, (255,)).size(0) == (6, 8)


def test_black_and_white_is_two_numbers(tmp_path: Path) -> None:
    Image.fromarray(NUMBERS > 2).save(tmp_path / "a.png")
    assert np.array_equal(read_semantic_mask(tmp_path / "a.png"), NUMBERS > 2)


def broken(path: Path, kind: str) -> None:
    match kind:
        case "colours":
            Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(path)
        case "transparent":
            Image.fromarray(np.zeros((6, 8, 4), np.uint8)).save(path)
        case "large":
            Image.fromarray(np.full((6, 8), 300, np.uint16)).save(path)
        case "cut short":
            save_labels(np.random.default_rng(0).integers(0, 5, (60, 80), dtype=np.uint8), path)
            path.write_bytes(path.read_bytes()[:400])
        case "floats":
            Image.fromarray(np.zeros((6, 8), np.float32)).save(path, format="TIFF")
        case "text":
            path.write_text("not an image")
        case "other mat":
            savemat(path, {"GTinst": {"Segmentation": NUMBERS}})
        case "flat mat":
            savemat(path, {"GTcls": 3})
        case "bomb":
            sbd(path, np.zeros((300, 300), np.uint8))
        case "no mat":
            path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("a.png", "colours", r"the labels are colours \(RGB\)"),
        ("a.png", "transparent", r"the labels are colours \(RGBA\)"),
        ("a.png", "large", "run from 300 to 300, but must lie within 0 to 255"),
        ("a.png", "cut short", "cannot read this image"),
        ("a.png", "floats", "one whole number for each pixel, not float32"),
        ("a.png", "text", "not an image"),
        ("a.png", "missing", "cannot read this image: No such file"),
        ("a.mat", "other mat", r"not a file of SBD's labels"),
        ("a.mat", "flat mat", r"not a file of SBD's labels"),
        ("a.mat", "bomb", "pixels, more than the limit of 10,000"),
        ("a.mat", "no mat", r"not a file of SBD's labels"),
        ("a.mat", "missing", "cannot read these labels: No such file"),
    ],
)
def test_a_broken_file_is_named(
    tmp_path: Path, name: str, kind: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETSEG_MAX_IMAGE_PIXELS", "10000")
    broken(tmp_path / name, kind)
    with pytest.raises(DataError, match=f"{tmp_path / name}: .*{message}"):
        read_semantic_mask(tmp_path / name)


def test_void_and_what_is_no_class(tmp_path: Path) -> None:
    numbers = NUMBERS.copy()
    numbers[0, 0], numbers[5, 7] = 11, 255
    save_labels(numbers, tmp_path / "a.png")
    read = LabelFiles(np.array([str(tmp_path / "a.png")]), 5, (11, 255)).read(0)
    assert read.dtype == np.uint8
    assert np.array_equal(read, np.where(numbers == 11, 255, numbers))
    with pytest.raises(
        DataError, match=r"a\.png: .* x 4, y 0 has the label 4, but the classes are 0 to 3, and void 11"
    ):
        LabelFiles(np.array([str(tmp_path / "a.png")]), 4, (11,)).read(0)
    with pytest.raises(DataError, match=r"a\.png: .* x 7, y 5 has the label 255, .* void 11;"):
        LabelFiles(np.array([str(tmp_path / "a.png")]), 5, (11,)).read(0)


def maps(tmp_path: Path, *numbers: np.ndarray) -> SemanticAnnotations:
    paths = [str(tmp_path / f"{row}.png") for row in range(len(numbers))]
    for path, one in zip(paths, numbers, strict=True):
        save_labels(one, Path(path))
    files = [f"{row}.jpg" for row in range(len(numbers))]
    source = LabelFiles(np.array(paths), 5, (255,))
    return semantic_masks(tmp_path, ("sky", "road", "car", "tree", "pole"), range(5), tmp_path, files, source)


def test_other_classes_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = maps(tmp_path, NUMBERS)
    with caplog.at_level(logging.WARNING):
        other = found.relabel(("pole", "fence", "road", "sky"))
    assert "left out the pixels of other classes: car, tree" in caplog.text
    assert other.category_ids == (4, -1, 1, 0)
    assert np.array_equal(other.labels(0), np.array([3, 2, 255, 255, 0], np.uint8)[NUMBERS])
    again = other.relabel(("sky", "pole"))
    assert np.array_equal(again.labels(0), np.array([0, 255, 255, 255, 1], np.uint8)[NUMBERS])
    assert found.relabel(found.classes) is found


def test_counts_sizes_and_subsets(tmp_path: Path) -> None:
    void = NUMBERS.copy()
    void[:, 0] = 255
    found = maps(tmp_path, NUMBERS, void[:4], void[:, :3])
    assert found.sizes.tolist() == [[6, 8], [4, 8], [6, 3]]
    expected = [[int((one == label).sum()) for label in range(5)] for one in (NUMBERS, void[:4], void[:, :3])]
    assert found.counts().tolist() == expected
    part = found.subset([2, 0])
    assert part.files.tolist() == ["2.jpg", "0.jpg"]
    assert part.path(0) == tmp_path / "2.jpg"
    assert part.sizes.tolist() == [[6, 3], [6, 8]]
    assert np.array_equal(part.labels(1), NUMBERS)


@pytest.mark.parametrize(
    ("classes", "message"), [((), "0 classes"), (["x"] * 300, "300 classes"), (["x", "y", "x"], "name 'x'")]
)
def test_classes_that_make_no_sense(tmp_path: Path, classes: list[str], message: str) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}: .*{message}"):
        semantic_masks(tmp_path, classes, range(len(classes)), tmp_path, [], LabelFiles(np.array([]), 0, ()))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("classes.txt", "sky\nred fox \n\n", (("sky", "red fox"), (255,))),
        ("class_names.txt", "_background_\ncat", (("_background_", "cat"), (255,))),
        ("classes.txt", b"\xef\xbb\xbfsky\r\nred fox\r\n\r\n", (("sky", "red fox"), (255,))),
        ("classes.txt", "Größe\nstraße".encode(), (("Größe", "straße"), (255,))),
        ("classes.json", b'\xef\xbb\xbf["sky", "road"]', (("sky", "road"), (255, 255))),
        ("classes.json", ["sky", "road"], (("sky", "road"), (255, 255))),
        ("classes.json", {"classes": ["sky", "road"], "ignore_index": 2}, (("sky", "road"), (2, 255))),
    ],
)
def test_names_of_classes(tmp_path: Path, name: str, content: Any, expected: tuple[Any, Any]) -> None:
    text = content if isinstance(content, (str, bytes)) else json.dumps(content)
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    assert find_classes(tmp_path, ("a", "b"), (7,)) == (tmp_path / name, *expected)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"sky\n\nroad\n", "line 2 is empty"), (b"\nsky", "line 1 is empty"), (b"sk\xff", "cannot read the names")],
)
def test_a_list_of_names_that_is_not_one(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"classes\.txt: {said}"):
        find_classes(tmp_path)


def test_names_of_classes_where_there_is_no_file(tmp_path: Path) -> None:
    assert find_classes(tmp_path, ("a", "b"), (7,)) == (tmp_path, ("a", "b"), (7, 255))
    with pytest.raises(DataError, match=rf"{tmp_path}: it has no classes\.txt"):
        find_classes(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read the names"),
        ("[" * 100000, "cannot read the names"),
        ('{"names": ["a"]}', "no list of names"),
        ("[1, 2]", "no list of names"),
        ('{"classes": ["a", "b"], "ignore_index": 1}', "ignore_index is 1"),
        ('{"classes": ["a", "b"], "ignore_index": "2"}', "ignore_index is '2'"),
        ('{"classes": ["a", "b"], "ignore_index": 256}', "ignore_index is 256"),
    ],
)
def test_broken_names_of_classes(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(DataError, match=rf"classes\.json: .*{message}"):
        find_classes(tmp_path)


def test_files_by_stem(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "a.b.jpeg", "notes.txt"):
        (tmp_path / name).touch()
    assert by_stem(tmp_path, (".jpg", ".jpeg", ".png")) == {"a": "a.PNG", "a.b": "a.b.jpeg", "b": "b.jpg"}
    (tmp_path / "a.jpg").touch()
    with pytest.raises(DataError, match=r"a\.PNG and a\.jpg differ"):
        by_stem(tmp_path, (".jpg", ".jpeg", ".png"))
    with pytest.raises(DataError, match="nowhere: cannot read this folder"):
        by_stem(tmp_path / "nowhere", (".jpg",))
