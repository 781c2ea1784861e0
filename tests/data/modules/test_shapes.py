from __future__ import annotations

import hashlib
import threading
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO as Reference

from detseg.data import VOC, ShapeCrops, Shapes
from detseg.data.annotations.images import read_image
from detseg.data.modules.shapes_generator import CLASSES, MOST, VISIBLE, Shape, draw
from detseg.errors import DataError


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Shapes:
    data = Shapes(str(tmp_path_factory.mktemp("data") / "shapes"), train=30, val=10, num_workers=0)
    data.prepare()
    return data


def contents(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_seed_draws_the_same_again(shapes: Shapes, tmp_path: Path) -> None:
    again, other = (Shapes(str(tmp_path / f"{seed}"), train=30, val=10, seed=seed) for seed in (0, 1))
    again.prepare()
    other.prepare()
    first = contents(shapes.root.parent)
    assert len(first) == 2 * 40 + 3 * 40 + 2 + 4 + 1  # images, labels, json, lists, settings
    assert contents(again.root.parent) == first
    assert contents(other.root.parent) != first
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["0", "1"] or len(
        list(tmp_path.iterdir())
    ) == 4


def test_both_formats_say_the_same(shapes: Shapes) -> None:
    voc = VOC(str(shapes.root.parent / "voc"))
    assert shapes.classes == voc.classes == CLASSES
    for one, other in (
        (shapes.train_annotations, voc.train_annotations),
        (shapes.val_annotations, voc.val_annotations),
    ):
        assert np.array_equal(one.boxes, other.boxes)
        assert np.array_equal(one.labels, other.labels)
        assert np.array_equal(one.offsets, other.offsets)
        assert np.array_equal(one.sizes, other.sizes)
        assert np.array_equal(read_image(one.path(3)), read_image(other.path(3)))
    assert (len(shapes.train_annotations), len(shapes.val_annotations)) == (30, 10)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pycocotools
def test_masks_boxes_and_areas_agree(shapes: Shapes) -> None:
    """Masks as pycocotools decodes them, against the boxes, the areas and the label images of the VOC folder."""
    voc = shapes.root.parent / "voc"
    reference = Reference(str(shapes.root / "annotations" / "instances_train.json"))
    kinds = Counter()
    for number in reference.getImgIds():
        objects, labels = (
            np.asarray(Image.open(voc / f"Segmentation{kind}" / f"{number:06d}.png")) for kind in ("Object", "Class")
        )
        entries = reference.imgToAnns[number]
        assert set(np.unique(objects)) <= {0, 255, *range(1, len(entries) + 1)}
        for position, entry in enumerate(entries, 1):
            mask = reference.annToMask(entry).astype(bool)
            x, y, width, height = entry["bbox"]
            kinds[type(entry["segmentation"])] += 1
            exact = isinstance(entry["segmentation"], dict)
            assert mask.sum() == pytest.approx(entry["area"], rel=0 if exact else 0.1)
            rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
            bounds = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert np.allclose(bounds, [x, y, x + width, y + height], atol=0 if exact else 1.5)
            inside = mask & (objects != 255)
            assert (objects[inside] == position).mean() > 0.95
            assert (labels[inside] == entry["category_id"]).mean() > 0.95
    assert kinds[list] > 10
    assert kinds[dict] > 10


def test_what_is_drawn() -> None:
    drawn = [draw((0, number)) for number in range(150)]
    found = [shape for _, shapes in drawn for shape in shapes]
    assert {shape.label for shape in found} == set(range(len(CLASSES)))
    assert 1 <= sum(not shapes for _, shapes in drawn) <= 15
    assert max(len(shapes) for _, shapes in drawn) == MOST
    assert {image.shape[0] > image.shape[1] for image, _ in drawn} == {True, False}
    assert min(shape.mask.sum() for shape in found) > 11 * 11 * VISIBLE
    for image, shapes in drawn:
        assert image.dtype == np.uint8
        assert all(shape.mask.shape == image.shape[:2] for shape in shapes)
        assert not shapes or np.sum([shape.mask for shape in shapes], axis=0).max() == 1  # nothing is seen twice


def test_an_object_is_where_its_mask_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw with plain textures, a darker one each time: every pixel must tell which object it belongs to."""
    values = iter(np.linspace(250, 60, 40))
    monkeypatch.setattr(
        "detseg.data.modules.shapes_generator._texture",
        lambda _, height, width: np.full((height, width, 3), next(values), dtype=np.float32),
    )
    image, shapes = next((image, shapes) for image, shapes in (draw((0, n)) for n in range(9)) if len(shapes) >= 3)
    shown = image.mean(axis=2)
    background = ~np.any([shape.mask for shape in shapes], axis=0)
    assert np.median(shown[background]) > max(np.median(shown[shape.mask]) for shape in shapes)
    assert len({round(float(np.median(shown[shape.mask]))) for shape in shapes}) == len(shapes)


def test_drawn_once(shapes: Shapes) -> None:
    image = shapes.root / "train" / "000001.jpg"
    before = image.stat().st_mtime_ns
    shapes.prepare()
    assert image.stat().st_mtime_ns == before


@pytest.mark.parametrize("other", [{"train": 3}, {"val": 3}, {"seed": 1}])
def test_shapes_of_other_settings_are_left_alone(shapes: Shapes, other: dict[str, int]) -> None:
    root = shapes.root.parent
    before = contents(root)
    with pytest.raises(DataError, match=rf"{root}: .*other settings.*give another root, or remove the folder"):
        Shapes(str(root), **{"train": 30, "val": 10, **other}).prepare()
    assert contents(root) == before


def test_several_may_ask_at_once(tmp_path: Path) -> None:
    root = tmp_path / "shapes"
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            assert len(Shapes(str(root), train=4, val=2).train_annotations) == 4
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["shapes"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("mine.txt", "dear"), ("settings.json", '{"editor.fontSize": 14}'), ("detseg_shapes.json", "not JSON")],
)
def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    (tmp_path / "photographs").mkdir()
    with pytest.raises(
        DataError, match=rf"{tmp_path}: this holds other files than synthetic shapes.*give another root, or remove it"
    ):
        Shapes(str(tmp_path)).prepare()
    assert (tmp_path / name).read_text() == text
    assert (tmp_path / "photographs").is_dir()


def test_a_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("dear")
    with pytest.raises(DataError, match="this holds other files than synthetic shapes"):
        Shapes(str(tmp_path / "file")).prepare()
    assert (tmp_path / "file").read_text() == "dear"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert len(Shapes(str(tmp_path / "empty"), train=3, val=2).train_annotations) == 3


def test_crops_are_shared_evenly_and_drawn_once(tmp_path: Path) -> None:
    data = ShapeCrops(str(tmp_path / "crops"), train=10, val=5, size=24, num_workers=0)
    assert data.classes == CLASSES
    for split, count in (("train", 10), ("val", 5)):
        listing = data.annotations(split)
        assert np.bincount(listing.labels).tolist() == [count // 5] * 5
        assert all(cv2.imread(str(data.path(split, row))).shape == (24, 24, 3) for row in range(count))
    again = ShapeCrops(str(tmp_path / "again"), train=10, val=5, size=24, num_workers=0)
    for row in range(10):
        assert data.path("train", row).read_bytes() == again.path("train", row).read_bytes()
    with pytest.raises(DataError, match="drawn from other settings"):
        ShapeCrops(str(tmp_path / "crops"), train=20, val=5, size=24).annotations("train")


def test_a_crop_shows_its_shape_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """White squares on black: what a crop shows is white in the middle and black at its edge."""
    image = np.zeros((100, 100, 3), np.uint8)
    image[30:70, 20:60] = 255
    mask = image[..., 0] > 0
    shapes = [Shape(label, mask, np.zeros((0, 2)), whole=True) for label in range(5)]
    monkeypatch.setattr("detseg.data.modules.shapes_generator.draw", lambda seed: (image, shapes))
    listing = ShapeCrops(str(tmp_path / "crops"), train=5, val=5, size=50, num_workers=0).annotations("train")
    for file in listing.files:
        crop = cv2.imread(str(listing.root / file))
        assert (crop[5:45, 5:45] == 255).all()
        assert crop[:4].max() == 0
        assert crop[:, :4].max() == 0
