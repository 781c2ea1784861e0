"""Masks from every format, their broken forms, and on their way into a batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as reference
from pycocotools.coco import COCO as Reference

from detseg.data import COCO, VOC, DetectionDataModule, RandomHorizontalFlip, Resize, Shapes
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.masks import RLE, concat_masks
from detseg.data.formats.coco.reader import read_coco
from detseg.data.formats.conversion import convert
from detseg.data.formats.format_detection import detect_source, find_formats
from detseg.data.formats.voc.reader import read_voc
from detseg.errors import DataError
from tests.data import made

HEIGHT, WIDTH = 48, 64
POLYGON = [10, 10, 30, 10, 30, 40, 10, 40]
NAMES = {1: "cat"}


def ellipse() -> NDArray[np.bool_]:
    return cv2.ellipse(np.zeros((HEIGHT, WIDTH), np.uint8), (30, 20), (12, 9), 20, 0, 360, 1, -1).astype(bool)


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Not compressed."""
    pixels = mask.T.ravel().astype(int)
    changes = np.flatnonzero(np.diff(pixels, prepend=0))
    return {"size": list(mask.shape), "counts": np.diff(changes, prepend=0, append=len(pixels)).tolist()}


def text(mask: NDArray[np.bool_]) -> dict[str, Any]:
    found = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": found["counts"].decode()}


def write(folder: Path, *segmentations: Any, **more: Any) -> Path:
    images = [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}]
    made.image(folder / "a.png", HEIGHT, WIDTH)
    objects = [
        {"id": 70 + row, "image_id": 1, "category_id": 1, "bbox": [8, 8, 40, 35], "segmentation": mask, **more}
        for row, mask in enumerate(segmentations)
    ]
    return made.coco(folder / "a.json", images, objects, NAMES)


def drawn(annotations: DetectionAnnotations, row: int = 0) -> NDArray[np.bool_]:
    assert annotations.masks is not None
    height, width = annotations.sizes[0].tolist()
    return next(annotations.masks.draw(np.array([row]), height, width))


@pytest.mark.parametrize(
    "segmentation",
    [
        [POLYGON],
        [POLYGON, [40, 5, 55, 5, 47, 20]],  # in two parts
        [[10.25, 10.75, 30.5, 12, 28, 40.1, 9.9, 33]],
        [[10, 10, 40, 40, 40, 10, 10, 40]],  # crosses itself
        [[5, 5, 80, 5, 80, 30, 5, 30]],  # reaches out of the image
        run_lengths(ellipse()),
        text(ellipse()),
        text(np.ones((HEIGHT, WIDTH), bool)),
    ],
)
def test_masks_are_drawn_as_pycocotools_draws_them(tmp_path: Path, segmentation: Any) -> None:
    file = write(tmp_path, segmentation)
    theirs = Reference(str(file))
    assert np.array_equal(drawn(read_coco(file, tmp_path, "all")), theirs.annToMask(theirs.anns[70]).astype(bool))


BROKEN = [
    (None, "has segmentation = None"),
    ([], "has no polygon"),
    ([[]], "of 0 points"),
    ([[10, 10, 30, 10]], r"\(part 1\) of 2 points; it takes 3 or more"),
    ([POLYGON, [1, 2]], r"\(part 2\) of 1 points"),
    ([[10, 10, 30, 10, 30]], "no list of x and y"),
    ([10, 10, 30, 10, 30, 40], "no list of x and y"),
    ([[10, 10, 30, "wide", 30, 40]], "no number"),
    ([[10, 10, 30, float("nan"), 30, 40]], "no number"),
    ({"size": [HEIGHT, WIDTH], "counts": [10, 20]}, "an RLE of 30 pixels, but its image has 3072"),
    ({"size": [HEIGHT, WIDTH], "counts": [4000, -928]}, "neither text nor a list of numbers"),
    ({"size": [HEIGHT, WIDTH], "counts": [1.5, 3070.5]}, "neither text nor a list of numbers"),
    ({"size": [HEIGHT, WIDTH]}, "neither text nor a list of numbers"),
    ({"size": [HEIGHT, WIDTH], "counts": []}, "an RLE of 0 pixels"),
    ({**run_lengths(ellipse()), "size": [WIDTH, HEIGHT]}, r"of the size \[64, 48\], but its image is \[48, 64\]"),
    ({**text(ellipse()), "size": [HEIGHT, WIDTH, 1]}, "of the size"),
    ({**text(ellipse()), "counts": text(ellipse())["counts"][:-3]}, "an RLE of|truncated"),
    ({**text(ellipse()), "counts": "é \x00"}, "character"),
    ({**text(ellipse()), "counts": "ooooooooooooo1"}, "too long"),
    ({"size": [HEIGHT, WIDTH], "counts": "0Pl20Pl2"}, "an RLE"),
    ("a text", "has segmentation = 'a text'"),
    ([[10, 10, 30, 10, 20, 10]], "without a pixel"),
    ([[10, 10, 10, 10, 10, 10]], "without a pixel"),
    ([[70, 10, 90, 10, 90, 30]], "without a pixel"),
    ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, "without a pixel"),
]


@pytest.mark.parametrize(("segmentation", "message"), BROKEN)
def test_a_broken_mask_is_refused_with_file_and_number(tmp_path: Path, segmentation: Any, message: str) -> None:
    file = write(tmp_path, [POLYGON], segmentation)
    with pytest.raises(DataError, match=rf"1 of 2 objects have no mask .*a.png annotation 71 .*({message})"):
        read_coco(file, tmp_path, "all")
    assert len(read_coco(file, tmp_path).boxes) == 2  # nobody asked for masks


@pytest.mark.parametrize(
    ("segmentation", "way_on"),
    [(None, "train a model"), ([[10, 10, 30, 10]], "correct them"), ([[70, 10, 90, 10, 90, 30]], "correct them")],
)
def test_where_no_mask_is_sound_the_way_on_depends_on_whether_there_are_any(
    tmp_path: Path, segmentation: Any, way_on: str
) -> None:
    with pytest.raises(DataError, match=f"2 of 2 objects have no mask .*; {way_on}"):
        read_coco(write(tmp_path, segmentation, segmentation), tmp_path, "all")


@pytest.mark.parametrize(("segmentation", "message"), BROKEN)
def test_or_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, segmentation: Any, message: str
) -> None:
    found = read_coco(write(tmp_path, segmentation, [POLYGON]), tmp_path, "valid")
    assert found.ids.tolist() == [71]
    assert found.offsets.tolist() == [0, 1]
    assert drawn(found)[12:38, 12:28].all()
    assert "left out 1 object " in caplog.text
    assert "annotation 70" in caplog.text


def test_it_is_an_error_if_no_sound_mask_is_left(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of 2 objects has a mask that can be used: .*annotation 70 has no poly"):
        read_coco(write(tmp_path, [], None), tmp_path, "valid")


def test_background_alone_needs_no_mask(tmp_path: Path) -> None:
    write(tmp_path, [POLYGON])
    made.image(tmp_path / "b.png", HEIGHT, WIDTH)
    made.coco(tmp_path / "b.json", [{"id": 1, "file_name": "b.png", "height": HEIGHT, "width": WIDTH}], [], NAMES)
    for use in ("all", "valid"):
        data = COCO(str(tmp_path), split={"train": "a.json", "val": "b.json"}, num_workers=0, masks=use)
        assert data.val_annotations.masks is not None
        assert not next(iter(data.val_dataloader())).targets.valid.any()


def test_areas_that_are_not_given_are_those_of_the_masks(tmp_path: Path) -> None:
    file = write(tmp_path, text(ellipse()), [POLYGON])
    content = json.loads(file.read_text())
    for entry in content["annotations"]:
        entry.pop("area", None)
    file.write_text(json.dumps(content))
    assert read_coco(file, tmp_path, "all").areas.tolist() == [ellipse().sum(), 600]
    assert read_coco(file, tmp_path).areas.tolist() == [1400, 1400]  # 40 x 35, of the boxes


@pytest.mark.parametrize(("labels", "place"), [("yolo", "line 1"), ("labelme", "shape 1")])
def test_a_corner_far_away_is_named(tmp_path: Path, labels: str, place: str) -> None:
    for name in ("a", "b"):
        made.image(tmp_path / f"{name}.png", HEIGHT, WIDTH)
        if labels == "yolo":
            (tmp_path / f"{name}.txt").write_text("0 0.1 0.1 0.5 0.1 1e6 0.5\n")
        else:
            shapes = [{"label": "cat", "points": [[1, 1], [9, 1], [2e6, 9]], "shape_type": "polygon"}]
            (tmp_path / f"{name}.json").write_text(json.dumps({"shapes": shapes, "imagePath": f"{name}.png"}))
    (tmp_path / "data.yaml").write_text("names: [cat]")
    with pytest.raises(DataError, match=rf"{place} has a polygon with a corner beyond 1,000,000 pixels"):
        DetectionDataModule(str(tmp_path)).read("train")


def test_rows_are_taken_in_any_order() -> None:
    contents = [(RLE, bytes([number] * number)) for number in range(6)]
    masks = concat_masks(contents)
    for rows in ([], [0], [5], [1, 2, 4], [4, 3, 3, 0, 1, 5]):
        taken = masks.take(np.array(rows, dtype=np.int64))
        assert taken.mask_types.tolist() == [RLE] * len(rows)
        assert [taken.data[start:end].tobytes() for start, end in taken.byte_ranges] == [
            contents[row][1] for row in rows
        ]


def test_masks_follow_their_objects(tmp_path: Path) -> None:
    found = read_coco(write(tmp_path, [POLYGON], run_lengths(ellipse()), [[0, 0, 9, 0, 9, 9]]), tmp_path, "all")
    kept = found.where(np.array([False, True, True])).subset([0, 0])
    assert kept.ids.tolist() == [71, 72, 71, 72]
    assert np.array_equal(drawn(kept, 2), ellipse())
    assert np.array_equal(drawn(kept, 3), drawn(found, 2))


def test_a_crowd_is_kept_for_evaluation_and_not_learnt(tmp_path: Path) -> None:
    write(tmp_path, run_lengths(ellipse()), iscrowd=1)
    data = COCO(str(tmp_path), split={"train": "a.json", "val": "a.json"}, num_workers=0, masks="all")
    assert np.array_equal(drawn(data.val_annotations), ellipse())
    assert not next(iter(data.val_dataloader())).targets.valid.any()


@pytest.mark.parametrize("name", ["nuts_coco/trainval.json", "coco128_train/instances_rle_train2017.json"])
def test_real_masks_are_those_of_pycocotools(shared_data: Path, name: str) -> None:
    file = shared_data / name
    if not file.exists():
        pytest.skip(f"no {name}")
    theirs, found = Reference(str(file)), read_coco(file, file.parent / "images", "all")
    assert found.masks is not None
    for image in range(0, len(found), 6):
        height, width = found.sizes[image].tolist()
        rows = np.arange(len(found.labels))[found.objects(image)]
        for mask, number in zip(found.masks.draw(rows, height, width), found.ids[rows].tolist(), strict=True):
            assert np.array_equal(mask, theirs.annToMask(theirs.anns[number]).astype(bool))


def test_real_masks_are_packed(shared_data: Path) -> None:
    """Crowds and polygons of several parts among them; a picture of each would take 300,000 bytes."""
    data = COCO(
        str(shared_data / "tiny_coco"),
        transforms=[Resize(64, 96), RandomHorizontalFlip()],
        batch_size=8,
        num_workers=0,
        masks="all",
    )
    for found in (data.train_annotations, data.val_annotations):
        assert found.masks is not None
        assert found.masks.data.nbytes / len(found.labels) < 1000
    batch = next(iter(data.train_dataloader()))
    assert batch.targets.masks is not None
    share = batch.targets.masks[batch.targets.valid].float().mean(dim=(1, 2)) / 255
    assert share.min() > 0.1
    assert 0.4 < share.mean() < 0.9


def voc(root: Path, numbers: NDArray[np.uint8], objects: int = 2) -> Path:
    boxes = [made.box("cat", 3, 5, 20, 30), made.box("dog", 30, 5, 60, 40), made.box("dog", 1, 1, 9, 9)][:objects]
    made.voc(root, "a", "".join(boxes))
    (root / "SegmentationObject").mkdir(exist_ok=True)
    image = Image.fromarray(numbers)
    image.putpalette([*range(256)] * 3)
    image.save(root / "SegmentationObject" / "a.png")
    return root


def test_objects_of_voc(tmp_path: Path) -> None:
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    numbers[4:30, 2:20], numbers[4:40, 29:60], numbers[4, 2:60] = 1, 2, 255
    found = read_voc(voc(tmp_path, numbers), ["a"], "all")
    assert np.array_equal(drawn(found, 0), numbers == 1)
    assert np.array_equal(drawn(found, 1), numbers == 2)


def test_broken_objects_of_voc(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    numbers[4:30, 2:20] = 1
    root = voc(tmp_path, numbers)
    with pytest.raises(DataError, match=r"a.jpg annotation 2 \(object 2 of its file\) has no pixel in .*a\.png"):
        read_voc(root, ["a"], "all")
    assert read_voc(root, ["a"], "valid").ids.tolist() == [1]
    assert "left out 1 object " in caplog.text
    voc(root, np.full((HEIGHT, WIDTH), 3, np.uint8))
    with pytest.raises(DataError, match=r"a\.png: shows an object 3, but the annotation of a lists 2"):
        read_voc(root, ["a"], "all")
    voc(root, np.ones((WIDTH, HEIGHT), np.uint8))
    with pytest.raises(DataError, match=r"a\.png: is 48x64, but its image 64x48"):
        read_voc(root, ["a"], "all")
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(root / "SegmentationObject" / "a.png")
    with pytest.raises(DataError, match=r"a\.png: .* colours"):
        read_voc(root, ["a"], "all")
    (root / "SegmentationObject" / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.png: (cannot read|not an image)"):
        read_voc(root, ["a"], "all")
    (root / "SegmentationObject" / "a.png").unlink()
    with pytest.raises(DataError, match=r"2 of 2 objects .* has no .*a\.png"):
        read_voc(root, ["a"], "all")


def test_shapes_have_the_same_masks_in_both_formats(tmp_path: Path) -> None:
    """VOC leaves the outlines out, so its masks lie inside."""
    Shapes(str(tmp_path / "shapes"), train=6, val=2).prepare()
    coco = COCO(str(tmp_path / "shapes" / "coco"), masks="all").train_annotations
    other = VOC(str(tmp_path / "shapes" / "voc"), masks="all").train_annotations
    assert other.masks is not None
    assert coco.masks is not None
    assert len(other.labels) == len(coco.labels) > 10
    for image in range(len(coco)):
        height, width = coco.sizes[image].tolist()
        rows = np.arange(len(coco.labels))[coco.objects(image)]
        for ours, theirs in zip(
            other.masks.draw(rows, height, width), coco.masks.draw(rows, height, width), strict=True
        ):
            assert (ours & ~theirs).mean() < 0.01
            assert ours.sum() > 0.4 * theirs.sum()


def test_polygons_of_yolo_and_labelme(tmp_path: Path) -> None:
    points = [[10, 10], [30, 10], [30, 40], [10, 40]]
    for seed, name in enumerate(("a", "b")):
        made.image(tmp_path / "yolo" / "images" / f"{name}.png", HEIGHT, WIDTH, seed)
        made.image(tmp_path / "labelme" / f"{name}.png", HEIGHT, WIDTH, seed)
        (tmp_path / "yolo" / "labels").mkdir(exist_ok=True)
        line = " ".join(f"{x / WIDTH} {y / HEIGHT}" for x, y in points)
        (tmp_path / "yolo" / "labels" / f"{name}.txt").write_text(f"0 {line}\n")
        shapes = [
            {"label": "cat", "points": points, "shape_type": "polygon"},
            {"label": "cat", "points": [points[0], points[2]], "shape_type": "rectangle"},
            {"label": "cat", "points": [[20, 20], [29, 20]], "shape_type": "circle"},
        ]
        content = {"shapes": shapes, "imagePath": f"{name}.png"}
        (tmp_path / "labelme" / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "yolo" / "data.yaml").write_text("names: [cat]")
    yolo, labelme = (
        DetectionDataModule(str(tmp_path / name), masks="all").train_annotations for name in ("yolo", "labelme")
    )
    square = np.zeros((HEIGHT, WIDTH), bool)
    square[10:40, 10:30] = True
    for found, row in ((yolo, 0), (labelme, 0), (labelme, 1)):
        assert np.array_equal(drawn(found, row), square)
    assert drawn(labelme, 2).sum() == pytest.approx(np.pi * 81, rel=0.05)


def test_yolo_boxes_have_no_masks(tmp_path: Path) -> None:
    for name in ("a", "b"):
        made.image(tmp_path / f"{name}.png", HEIGHT, WIDTH)
        (tmp_path / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("names: [cat]")
    with pytest.raises(DataError, match=r"2 of 2 objects have no mask .*png annotation 1 has no mask"):
        DetectionDataModule(str(tmp_path), masks="all").read("train")


@pytest.mark.parametrize("use", ["all", "valid"])
@pytest.mark.parametrize("kind", ["COCO", "VOC", "YOLO"])
def test_a_set_of_boxes_alone_says_what_to_do(tmp_path: Path, kind: str, use: Literal["all", "valid"]) -> None:
    coco = made.simple_coco(tmp_path / "COCO" / "labels.json", tmp_path / "COCO" / "images", count=2).parent
    if kind != "COCO":
        (format,) = find_formats(kind, "detection")
        convert(detect_source(coco), format, tmp_path / kind)
    with pytest.raises(DataError, match=rf"{kind}.* mask.*such as FasterRCNN, with `masks='none'`, or give"):
        DetectionDataModule(str(tmp_path / kind), masks=use).read("train")


def test_mask_and_box_and_label_stay_together_into_the_batch(tmp_path: Path) -> None:
    """A mirrored object has a mirrored grid, padding an empty one."""
    write(tmp_path, [[8, 8, 28, 8, 28, 43, 8, 43]])  # the left half of its box
    for flip in (0, 1):
        transforms = [Resize(96, 128), RandomHorizontalFlip(flip)]
        data = COCO(
            str(tmp_path),
            split={"train": "a.json", "val": "a.json"},
            transforms=transforms,
            num_workers=0,
            masks="all",
            batch_size=1,
        )
        targets = next(iter(data.train_dataloader())).targets
        assert targets.masks is not None
        assert targets.masks.dtype == torch.uint8
        left, right = targets.masks[0, 0, :, :108], targets.masks[0, 0, :, 116:]
        full, empty = (right, left) if flip else (left, right)
        assert full.min() == 255
        assert not empty.any()
        assert not targets.masks[0, 1:].any()
        assert next(iter(data.val_dataloader())).targets.masks is not None
    without = COCO(str(tmp_path), split={"train": "a.json", "val": "a.json"}, num_workers=0, batch_size=1)
    assert next(iter(without.train_dataloader())).targets.masks is None
