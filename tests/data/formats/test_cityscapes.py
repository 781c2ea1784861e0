from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from detseg.data import SegmentationDataModule
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.masks import RLE
from detseg.data.formats.cityscapes import CityscapesFormat, paint
from detseg.data.formats.layout import Tree
from detseg.errors import DataError
from tests.data import made

HEIGHT, WIDTH = 48, 64
# Numbers in labelIds and names of the classes that are measured, as labels.py of cityscapesScripts lists them.
NUMBERS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
NAMES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
TRAINED = dict(zip(NUMBERS, NAMES, strict=True))


def frame(root: Path, split: str, city: str, number: int) -> Path:
    """The image of a frame, and where its labels go, without the ending."""
    name = f"{city}_{number:06}_000019"
    made.image(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", HEIGHT, WIDTH, seed=number)
    folder = root / "gtFine" / split / city
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}_gtFine"


def write_instances(stem: Path, numbers: np.ndarray) -> None:
    cv2.imwrite(f"{stem}_instanceIds.png", numbers.astype(np.uint16))


def write_polygons(stem: Path, objects: list[dict[str, Any]], **more: Any) -> Path:
    content = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects, **more}
    file = Path(f"{stem}_polygons.json")
    file.write_text(json.dumps(content))
    return file


def shape(label: str, *points: tuple[float, float], **more: Any) -> dict[str, Any]:
    return {"label": label, "polygon": points, **more}


def read(root: Path, part: str) -> DetectionAnnotations:
    (source,) = CityscapesFormat().detect(Tree(root))
    return source.read(part)


def test_instances_become_objects_with_masks(tmp_path: Path) -> None:
    numbers = np.full((HEIGHT, WIDTH), 7)
    numbers[5:20, 10:30] = 26000
    numbers[10:15, 20:40] = 24000  # in front of the car
    numbers[0:4, 0:8] = 26  # cars that nobody could tell apart
    numbers[30:40, 50:64] = 29000  # a caravan, which the benchmark leaves out
    numbers[40:48, 0:9] = 33001
    write_instances(frame(tmp_path, "train", "aachen", 1), numbers)
    write_instances(frame(tmp_path, "val", "ulm", 2), np.full((HEIGHT, WIDTH), 11))
    write_instances(frame(tmp_path, "test", "bonn", 3), np.zeros((HEIGHT, WIDTH)))
    found = read(tmp_path, "train")
    assert list(CityscapesFormat().detect(Tree(tmp_path))[0].splits) == ["train", "val"]
    assert found.classes == ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    assert found.category_ids == (24, 25, 26, 27, 28, 31, 32, 33)
    assert found.files.tolist() == ["leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png"]
    names = [found.classes[label] for label in found.labels]
    assert names == ["car", "person", "car", "bicycle"]
    assert found.crowd.tolist() == [True, False, False, False]
    assert found.boxes.tolist() == [[0, 0, 8, 4], [20, 10, 40, 15], [10, 5, 30, 20], [0, 40, 9, 48]]
    assert found.areas.tolist() == [32, 100, 15 * 20 - 50, 72]
    assert found.masks is not None
    assert (found.masks.mask_types == RLE).all()
    for row, (mask, number) in enumerate(
        zip(found.masks.draw(np.arange(4), HEIGHT, WIDTH), (26, 24000, 26000, 33001), strict=True)
    ):
        assert np.array_equal(mask, numbers == number), row
    assert len(read(tmp_path, "val").boxes) == 0


def test_polygons_give_what_the_makers_draw(tmp_path: Path) -> None:
    objects = [
        shape("road", (0, 20), (63, 20), (63, 47), (0, 47)),
        shape("car", (4, 8), (30, 8), (30, 30), (4, 30)),
        shape("cargroup", (40, 5), (60, 5), (50, 20)),
        shape("car", (20, 20), (44, 22), (40, 40)),
        shape("person", (0, 0), (9, 0), (9, 9), deleted=1),
        shape("license plate", (5, 25), (9, 25), (9, 28)),
        shape("polegroup", (1, 1), (3, 1), (3, 40)),
    ]
    file = write_polygons(frame(tmp_path, "train", "aachen", 1), objects)
    image = Image.new("I", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(image)
    for index, number in ((0, 7000 // 1000), (1, 26000), (2, 26), (3, 26001), (6, 18)):
        draw.polygon(objects[index]["polygon"], fill=number)
    assert np.array_equal(paint(file), np.array(image))
    drawn = read(tmp_path, "all")
    write_instances(Path(str(file).removesuffix("_polygons.json")), np.array(image))
    shown = read(tmp_path, "all")
    for name in ("boxes", "labels", "areas", "crowd"):
        assert np.array_equal(getattr(drawn, name), getattr(shown, name)), name
    assert drawn.crowd.tolist() == [True, False, False]
    assert drawn.areas.sum() == (np.array(image) // 1000 == 26).sum() + (np.array(image) == 26).sum()


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([shape("horse", (0, 0), (1, 0), (1, 1))], "object 1 has label = 'horse'"),
        ([shape("car", (0, 0), (1, 0))], "object 1 has a polygon"),
        ([shape("sky", (0, 0), (1, 0), (1, 1)), {"label": "sky"}], "object 2 has a polygon"),
        ([shape("car", (0, 0), (1, 0), (1, float("nan")))], "object 1 has a polygon"),
        ([3], "object 1 is no object"),
        (None, "it has no list of objects"),
    ],
)
def test_broken_polygons_are_named(tmp_path: Path, objects: Any, message: str) -> None:
    write_polygons(frame(tmp_path, "train", "aachen", 1), objects)
    with pytest.raises(DataError, match=rf"aachen_000001_000019_gtFine_polygons\.json: .*{message}"):
        read(tmp_path, "all")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    stem = frame(tmp_path, "train", "aachen", 1)
    write_polygons(stem, [], imgWidth=10**6, imgHeight=10**6)
    with pytest.raises(DataError, match="more than the limit"):
        read(tmp_path, "all")
    Path(f"{stem}_instanceIds.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"instanceIds\.png: not an image"):
        read(tmp_path, "all")
    write_instances(stem, np.zeros((HEIGHT, WIDTH)))
    next((tmp_path / "leftImg8bit").rglob("*.png")).unlink()
    with pytest.raises(DataError, match=r"its image aachen_000001_000019_leftImg8bit\.png is missing"):
        read(tmp_path, "all")


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_every_label_of_segmentation(tmp_path: Path, kind: str) -> None:
    ids = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 34
    order = {number: label for label, number in enumerate(TRAINED)}
    expected = np.array([order.get(number, 255) for number in range(34)])[ids]
    numbers = ids if kind == "labelIds" else expected
    for split in ("train", "val"):
        cv2.imwrite(f"{frame(tmp_path, split, 'jena', 1)}_{kind}.png", numbers.astype(np.uint8))
    data = SegmentationDataModule(str(tmp_path), "Cityscapes")
    assert dict(zip(data.category_ids, data.classes, strict=True)) == TRAINED
    found = data.val_annotations
    assert str(found.files[0]).startswith("leftImg8bit/val/jena/")
    assert np.array_equal(found.labels(0), expected)
    if kind == "labelIds":
        cv2.imwrite(f"{frame(tmp_path, 'val', 'jena', 1)}_{kind}.png", np.full((HEIGHT, WIDTH), 77, np.uint8))
        with pytest.raises(DataError, match="has the label 77, but the classes are 7, 8, 11"):
            found.labels(0)
    with pytest.raises(DataError, match=r"no gtFine_labelIds\.png of the split test"):
        _ = SegmentationDataModule(str(tmp_path), "Cityscapes", split={"val": "test"}).val_annotations


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["label", "polygon", "objects", "imgHeight"]), inner, max_size=3)
    ),
    max_leaves=6,
)
broken = st.fixed_dictionaries(
    {},
    optional={
        "imgHeight": st.integers(-1, 40) | values,
        "imgWidth": st.integers(-1, 40) | values,
        "objects": st.lists(
            st.fixed_dictionaries({"label": st.sampled_from(["car", "cargroup", "sky", "x"]), "polygon": values})
            | values,
            max_size=3,
        ),
    },
)


@settings(max_examples=60, deadline=None)
@given(broken.map(json.dumps).map(str.encode) | values.map(json.dumps).map(str.encode) | st.binary(max_size=60))
def test_nothing_but_data_errors(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stem = frame(Path(folder), "train", "aachen", 1)
        for ending in ("_polygons.json", "_instanceIds.png"):
            Path(f"{stem}{ending}").write_bytes(content)
            with suppress(DataError):
                read(Path(folder), "all")
