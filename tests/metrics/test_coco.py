import contextlib
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as reference_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.masks import RLE, concat_masks
from detseg.data.formats.coco.reader import read_coco
from detseg.metrics import CocoAP, Detections, annotation_targets, coco_results, matching
from tests.metrics import generated

REAL = Path(__file__).parents[3] / "shared/data/tiny_coco"
NUMBERS = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
NUMBERS += ["AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"]


def as_coco(truth: DetectionAnnotations) -> dict:
    """Annotations as a COCO file."""
    images = np.repeat(np.arange(len(truth)), np.diff(truth.offsets))
    objects = []
    for row in range(len(truth.labels)):
        x1, y1, x2, y2 = truth.boxes[row].tolist()
        objects.append(
            {
                "id": int(truth.ids[row]),
                "image_id": truth.image_ids[images[row]].item(),
                "category_id": truth.category_ids[truth.labels[row]],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": float(truth.areas[row]),
                "iscrowd": int(truth.crowd[row]),
            }
        )
    return {
        "images": [{"id": image.item(), "height": 240, "width": 320} for image in truth.image_ids],
        "categories": [
            {"id": number, "name": name} for number, name in zip(truth.category_ids, truth.classes, strict=True)
        ],
        "annotations": objects,
    }


def reference(dataset: dict, results: list[dict], kind: str = "bbox") -> dict[str, float]:
    """The same figures by pycocotools, with nan for its -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(dataset))
        truth.createIndex()
        if results:
            found = truth.loadRes(json.loads(json.dumps(results)))
        else:
            found = COCO()
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = dict(zip(NUMBERS, evaluation.stats.tolist(), strict=True))
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    for row, number in enumerate(evaluation.params.catIds):
        precision = evaluation.eval["precision"][:, :, row, 0, 2]
        figures[f"AP/{names[number]}"] = float(precision[precision > -1].mean()) if (precision > -1).any() else -1.0
    return {name: math.nan if value == -1 else value for name, value in figures.items()}


def coco_ap(truth: DetectionAnnotations, found: Detections) -> dict[str, float]:
    return generated.compute(CocoAP(truth.classes), truth, found)


def mask_ap(truth: DetectionAnnotations, found: Detections) -> dict[str, float]:
    """The values of masks, under the names of those of boxes."""
    values = coco_ap(truth, found)
    return {name.removeprefix("mask_"): value for name, value in values.items() if name.startswith("mask_")}


def assert_equal(ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert ours.keys() == theirs.keys()
    assert ours == pytest.approx(theirs, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("seed", range(8))
def test_equals_pycocotools(seed: int) -> None:
    truth = generated.annotations(seed, images=4 * seed + 5)
    found = generated.detections(truth, seed + 100)
    ours = coco_ap(truth, found)
    assert_equal(ours, reference(as_coco(truth), coco_results(truth, found)))
    assert list(ours)[:12] == NUMBERS
    assert 0.05 < ours["AP"] < 0.95
    assert math.isnan(ours["AP/class4"])


def test_equals_pycocotools_beyond_100_detections_an_image() -> None:
    truth = generated.annotations(1, images=3, classes=3, objects=60)
    found = generated.detections(truth, 2, false=400)
    assert np.bincount(found.images).min() > 300
    assert_equal(coco_ap(truth, found), reference(as_coco(truth), coco_results(truth, found)))


SIDES = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 4), st.integers(1, 4))  # x, y, width, height
AREA = st.sampled_from([0, 1, 700, 1024, 1025, 5000, 9216, 9217, 20000, 1e10, 2e10])
OBJECT = st.tuples(st.integers(0, 2), st.integers(0, 1), SIDES, AREA, st.sampled_from([False, False, True]))
DETECTION = st.tuples(st.integers(0, 2), st.integers(0, 2), SIDES, st.sampled_from([0.0, 0.25, 0.5, 1.0]))


def boxes(sides: list[tuple[int, ...]], scale: float) -> np.ndarray:
    x, y, width, height = scale * np.array(sides, dtype=np.float64).reshape(-1, 4).T
    return np.stack([x, y, x + width, y + height], axis=1)


@settings(max_examples=200, deadline=None)
@given(st.lists(OBJECT, max_size=14), st.lists(DETECTION, max_size=30), st.sampled_from([1.0, 8.0, 32.0, 0.1]))
def test_equals_pycocotools_on_anything(objects: list[tuple], items: list[tuple], scale: float) -> None:
    """Few places, sizes and scores, so that every kind of tie happens; areas at the ends of the ranges, and crowds."""
    objects, items = sorted(objects, key=lambda item: item[0]), sorted(items, key=lambda item: item[0])
    base = generated.annotations(0, images=3, classes=3, objects=0)
    images, labels, sides, areas, crowd = zip(*objects, strict=True) if objects else [()] * 5
    truth = replace(
        base,
        image_ids=np.array([30, 10, 20]),
        offsets=np.searchsorted(images, np.arange(4)),
        boxes=boxes(sides, scale),
        labels=np.array(labels, dtype=np.int64),
        areas=np.array(areas, dtype=np.float64),
        crowd=np.array(crowd, dtype=bool),
        difficult=np.zeros(len(objects), dtype=bool),
        ids=np.arange(len(objects)) + 1,
    )
    images, labels, sides, scores = zip(*items, strict=True) if items else [()] * 4
    images, labels = np.array(images, dtype=np.int64), np.array(labels, dtype=np.int64)
    found = Detections(images, boxes(sides, scale), labels, np.array(scores, dtype=np.float64))
    assert_equal(coco_ap(truth, found), reference(as_coco(truth), coco_results(truth, found)))


def test_equals_pycocotools_where_many_pairs_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of boxes of one class about the same place; compared in blocks, some of them of a single detection."""
    truth = generated.annotations(11, images=4, classes=2, objects=90)
    truth = replace(truth, boxes=truth.boxes / 4 + [0, 0, 40, 40])
    found = generated.detections(truth, 12)
    expected = reference(as_coco(truth), coco_results(truth, found))
    for block in (1, 50, 1 << 16):
        monkeypatch.setattr(matching, "BLOCK", block)
        assert_equal(coco_ap(truth, found), expected)


@pytest.mark.parametrize("second", [0, 8])
def test_equals_pycocotools_where_a_box_overlaps_two_objects_equally(second: int) -> None:
    """Which of them it is given decides whether the next box, which overlaps one alone, finds anything."""
    truth = generated.annotations(0, images=1, classes=1, objects=0)
    truth = replace(
        truth,
        offsets=np.array([0, 2]),
        boxes=np.array([[0.0, 0, 20, 20], [8, 0, 28, 20]]),
        labels=np.zeros(2, np.int64),
        areas=np.full(2, 400.0),
        crowd=np.zeros(2, bool),
        difficult=np.zeros(2, bool),
        ids=np.array([1, 2]),
    )
    boxes = np.array([[4.0, 0, 24, 20], [second, 0, second + 20, 20]])
    found = Detections(np.zeros(2, np.int64), boxes, np.zeros(2, np.int64), np.array([0.9, 0.8]))
    ours = coco_ap(truth, found)
    assert_equal(ours, reference(as_coco(truth), coco_results(truth, found)))
    assert ours["AR_100"] == pytest.approx(0.7 if second == 0 else 0.5)


@pytest.mark.parametrize("objects", [25, 29, 50, 58, 100, 113])
def test_equals_pycocotools_where_rounding_decides_which_recall_is_reached(objects: int) -> None:
    """7 of 25 is .28, but 25 times .28 is more than 7; the precision falls with every hit, so that each one tells."""
    truth = generated.annotations(0, images=objects, classes=1, objects=0)
    truth = replace(
        truth,
        offsets=np.arange(objects + 1),
        boxes=np.tile([0.0, 0, 50, 50], (objects, 1)),
        labels=np.zeros(objects, np.int64),
        areas=np.full(objects, 2500.0),
        crowd=np.zeros(objects, bool),
        difficult=np.zeros(objects, bool),
        ids=np.arange(objects) + 1,
    )
    images = np.repeat(np.arange(objects), 2)
    boxes = np.tile([[0.0, 0, 50, 50], [100, 0, 150, 50]], (objects, 1))
    found = Detections(images, boxes, np.zeros_like(images), np.linspace(1, 0.1, 2 * objects))
    assert_equal(coco_ap(truth, found), reference(as_coco(truth), coco_results(truth, found)))


def test_leaves_out_detections_of_other_classes_and_refuses_targets_of_other_classes_and_images() -> None:
    truth = generated.annotations(2)
    found = generated.detections(truth, 3)
    strange = found._replace(labels=np.where(np.arange(len(found.labels)) % 3 == 0, found.labels, -1))
    strange = strange._replace(labels=np.where(np.arange(len(found.labels)) % 3 == 1, 5, strange.labels))
    known = Detections(*(column[(strange.labels >= 0) & (strange.labels < 5)] for column in strange[:4]))
    assert coco_ap(truth, strange) == pytest.approx(coco_ap(truth, known), abs=0, nan_ok=True)
    metric = CocoAP(truth.classes[:2])
    with pytest.raises(ValueError, match="labels beyond the 2 classes"):
        generated.compute(metric, truth, found)
    preds, target = generated.predictions(found, 12), annotation_targets(truth, range(11))
    with pytest.raises(ValueError, match="predictions of 12 images, but targets of 11"):
        metric.update(preds, target)


def test_equals_pycocotools_without_detections() -> None:
    truth = generated.annotations(3)
    figures = coco_ap(truth, generated.no_detections())
    assert_equal(figures, reference(as_coco(truth), []))
    assert figures["AP"] == 0


@pytest.mark.parametrize("empty", [True, False])
def test_undefined_without_objects(empty: bool) -> None:
    truth = generated.annotations(4, objects=0)
    found = generated.no_detections() if empty else generated.detections(truth, 1)
    assert all(math.isnan(value) for value in coco_ap(truth, found).values())


def test_does_not_depend_on_the_kind_of_image_ids(capsys: pytest.CaptureFixture[str]) -> None:
    truth = generated.annotations(5)
    found = generated.detections(truth, 6)
    named = replace(truth, image_ids=np.array([f"{image:09d}" for image in truth.image_ids]))
    assert coco_ap(named, found) == pytest.approx(coco_ap(truth, found), abs=0, nan_ok=True)
    assert capsys.readouterr().out == ""


def test_difficult_objects_count_neither_way() -> None:
    """What finds a difficult object may as well not be there."""
    truth = generated.annotations(7, crowds=False)
    truth = replace(truth, boxes=truth.boxes + 1000 * np.arange(len(truth.labels))[:, None])  # far from each other
    exact = Detections(
        np.repeat(np.arange(len(truth)), np.diff(truth.offsets)),
        truth.boxes,
        truth.labels,
        np.linspace(1, 0.1, len(truth.labels)),
    )
    difficult = np.arange(len(truth.labels)) % 3 == 0
    wrong = exact._replace(boxes=np.where(difficult[:, None], exact.boxes, exact.boxes + 500))
    assert coco_ap(replace(truth, difficult=difficult), exact)["AP"] == pytest.approx(1)
    assert coco_ap(replace(truth, difficult=difficult), wrong)["AP"] == 0
    assert coco_ap(truth, wrong)["AP"] > 0.1


def test_results_speak_the_data_sets_ids(caplog: pytest.LogCaptureFixture) -> None:
    truth = generated.annotations(8, images=2)
    truth = replace(truth, category_ids=(1, 90, -1, 4, 5), image_ids=np.array(["2007_000033", "2007_000042"]))
    found = Detections(
        np.array([0, 1, 1]), np.array([[1, 2, 4, 8.5]] * 3), np.array([1, 2, 0]), np.array([0.5, 0.25, 0.125])
    )
    assert json.loads(json.dumps(coco_results(truth, found))) == [
        {"image_id": "2007_000033", "category_id": 90, "bbox": [1, 2, 3, 6.5], "score": 0.5},
        {"image_id": "2007_000042", "category_id": 1, "bbox": [1, 2, 3, 6.5], "score": 0.125},
    ]
    assert "left out 1 detections of classes that the data set does not have" in caplog.text


@pytest.mark.skipif(not REAL.is_dir(), reason="no real photographs at ../shared/data")
@pytest.mark.parametrize("split", ["train", "val"])
def test_equals_pycocotools_on_real_labels(split: str) -> None:
    dataset = json.loads((REAL / f"annotations/instances_{split}2017.json").read_text())
    truth = read(dataset)
    found = generated.detections(truth, 9)
    ours = coco_ap(truth, found)
    assert_equal(ours, reference(dataset, coco_results(truth, found)))
    assert 0.1 < ours["AP"] < 0.9
    assert sum(math.isnan(value) for value in ours.values()) > 20


@pytest.mark.parametrize("split", ["train", "val"])
def test_equals_pycocotools_from_file_to_figures(shared_data: Path, split: str) -> None:
    """Labels by the package's own reader; pycocotools is given the file."""
    folder = shared_data / "tiny_coco"
    file = folder / f"annotations/instances_{split}2017.json"
    truth = read_coco(file, folder / f"{split}2017")
    found = generated.detections(truth, 9)
    ours = coco_ap(truth, found)
    assert_equal(ours, reference(json.loads(file.read_text()), coco_results(truth, found)))
    assert 0.1 < ours["AP"] < 0.9


def read(dataset: dict) -> DetectionAnnotations:
    """The boxes of a COCO file, straight from its rows."""
    numbers = [category["id"] for category in dataset["categories"]]
    per_image = [[o for o in dataset["annotations"] if o["image_id"] == image["id"]] for image in dataset["images"]]
    objects = [item for image in per_image for item in image]
    boxes = np.array([item["bbox"] for item in objects])
    boxes[:, 2:] += boxes[:, :2]
    return DetectionAnnotations(
        classes=tuple(category["name"] for category in dataset["categories"]),
        category_ids=tuple(numbers),
        root=Path("nowhere"),
        files=np.array([image["file_name"] for image in dataset["images"]]),
        image_ids=np.array([image["id"] for image in dataset["images"]]),
        sizes=np.array([[image["height"], image["width"]] for image in dataset["images"]], dtype=np.int32),
        offsets=np.cumsum([0, *map(len, per_image)]),
        boxes=boxes,
        labels=np.array([numbers.index(item["category_id"]) for item in objects]),
        areas=np.array([item["area"] for item in objects]),
        crowd=np.array([item["iscrowd"] == 1 for item in objects]),
        difficult=np.zeros(len(objects), dtype=bool),
        ids=np.array([item["id"] for item in objects]),
    )


def with_masks(truth: DetectionAnnotations, found: Detections) -> tuple[DetectionAnnotations, Detections]:
    """Ellipses in the boxes on both sides, crowds too; where they are in pixels of an image of 240 x 320."""

    def ellipses(boxes: np.ndarray) -> list[bytes]:
        y, x = np.mgrid[:240, :320] + 0.5
        texts = []
        for x1, y1, x2, y2 in boxes:
            inside = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1
            texts.append(reference_masks.encode(np.asfortranarray(inside.astype(np.uint8)))["counts"])
        return texts

    masks = concat_masks([(RLE, text) for text in ellipses(truth.boxes)])
    own = np.empty(len(found.boxes), dtype=object)
    own[:] = ellipses(found.boxes)
    return replace(truth, masks=masks), found._replace(masks=own)


@pytest.mark.parametrize("seed", range(3))
def test_masks_equal_pycocotools(seed: int) -> None:
    truth = generated.annotations(seed, images=5 + seed)
    truth, found = with_masks(truth, generated.detections(truth, seed + 50))
    assert truth.masks is not None
    dataset = as_coco(truth)
    for row, entry in enumerate(dataset["annotations"]):
        entry["segmentation"] = {"size": [240, 320], "counts": truth.masks.rle(row, 240, 320).decode()}
    results = [{key: value for key, value in one.items() if key != "bbox"} for one in coco_results(truth, found)]
    ours = mask_ap(truth, found)
    assert_equal(ours, reference(dataset, results, "segm"))
    assert ours["AP"] != coco_ap(truth, found)["AP"]
    assert math.isnan(mask_ap(truth, found)["AP/class4"])


def test_masks_of_nothing_found() -> None:
    truth = generated.annotations(0)
    truth, found = with_masks(truth, generated.no_detections())
    assert mask_ap(truth, found)["AP"] == 0


def test_real_polygons_and_crowds_equal_pycocotools(shared_data: Path) -> None:
    """The truth moved by some pixels as what was found, its crowds among it."""
    file = shared_data / "tiny_coco/annotations/instances_val2017.json"
    truth = read_coco(file, file.parent, "all").subset(range(12))
    assert truth.masks is not None
    images = np.repeat(np.arange(len(truth)), np.diff(truth.offsets))
    own = np.empty(len(images), dtype=object)
    for row, image in enumerate(images):
        height, width = truth.sizes[image].tolist()
        moved = np.roll(next(truth.masks.draw(np.array([row]), height, width)), 2 + row % 5, axis=1)
        own[row] = reference_masks.encode(np.asfortranarray(moved.astype(np.uint8)))["counts"]
    scores = np.linspace(0, 1, len(images))
    found = Detections(images, truth.boxes, truth.labels, scores, own)
    dataset = json.loads(file.read_text())
    kept = set(truth.image_ids.tolist())
    dataset["images"] = [entry for entry in dataset["images"] if entry["id"] in kept]
    dataset["annotations"] = [entry for entry in dataset["annotations"] if entry["image_id"] in kept]
    results = [{key: value for key, value in one.items() if key != "bbox"} for one in coco_results(truth, found)]
    ours = mask_ap(truth, found)
    assert 0 < ours["AP"] < 0.95
    assert_equal(ours, reference(dataset, results, "segm"))
