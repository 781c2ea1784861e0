"""Results for others: pycocotools, supervision, and a person who looks at them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detseg.draw import colour, draw, overlay
from detseg.errors import DetsegError
from detseg.inference import ClassificationResult, DetectionResult, Predictor, SemanticResult
from tests.colours import COLOURS, IDS, ColourMaskDetector, write_colours

NAMES = ("red", "green", "blue")


def semantic() -> SemanticResult:
    labels = np.zeros((20, 30), np.uint8)
    labels[5:12, 8:21] = 2
    return SemanticResult(
        image_size=(20, 30), class_names=NAMES, pixels=np.full((20, 30, 3), 90, np.uint8), labels=labels
    )


def detection() -> DetectionResult:
    mask = np.zeros((40, 60), np.uint8, order="F")
    mask[10:30, 5:25] = 1
    return DetectionResult(
        image_size=(40, 60),
        class_names=NAMES,
        pixels=np.full((40, 60, 3), 90, np.uint8),
        boxes=np.array([[5, 10, 25, 30]], np.float32),
        labels=np.array([2]),
        scores=np.array([0.75], np.float32),
        mask_rles=[mask_api.encode(mask)["counts"]],
    )


def test_pycocotools_measures_the_results(tmp_path: Path) -> None:
    root = write_colours(tmp_path)
    truth = COCO(str(root / "annotations" / "instances_val.json"))
    model = ColourMaskDetector()
    model.class_names, model.category_ids = tuple(COLOURS), tuple(IDS.values())
    results = Predictor(model)(root / "val")
    ids = {image["file_name"]: image["id"] for image in truth.dataset["images"]}
    entries = [entry for result in results for entry in result.to_coco(ids[result.path.name])]
    (tmp_path / "results.json").write_text(json.dumps(entries))
    loaded = truth.loadRes(str(tmp_path / "results.json"))
    for kind in ("bbox", "segm"):
        evaluation = COCOeval(truth, loaded, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1.0), kind


def test_masks_are_those_of_pycocotools() -> None:
    result = detection()
    (entry,) = result.to_coco(7)
    assert (entry["image_id"], entry["category_id"], entry["bbox"]) == (7, 3, [5, 10, 20, 20])
    assert result.to_coco(category_ids=[11, 12, 13])[0]["category_id"] == 13
    assert result.masks is not None
    assert np.array_equal(mask_api.decode(entry["segmentation"]), result.masks[0])
    assert result.masks.sum() == 20 * 20


def test_semantic_results_have_a_mask_for_each_class_that_is_there() -> None:
    result = semantic()
    entries = result.to_coco(3)
    assert [entry["category_id"] for entry in entries] == [1, 3]
    for entry, label in zip(entries, (0, 2), strict=True):
        assert np.array_equal(mask_api.decode(entry["segmentation"]), result.labels == label)
    truth = COCO()
    truth.dataset = {"images": [{"id": 3}], "categories": [{"id": 1}, {"id": 2}, {"id": 3}], "annotations": []}
    truth.createIndex()
    assert [entry["area"] for entry in truth.loadRes(entries).dataset["annotations"]] == [600 - 7 * 13, 7 * 13]
    assert result.class_fractions == pytest.approx({"red": 1 - 91 / 600, "blue": 91 / 600})
    assert list(result.class_fractions) == ["red", "blue"]
    assert result.label_image().mode == "P"
    assert np.array_equal(np.asarray(result.label_image()), result.labels)


def test_plots_are_drawn_on_the_image(tmp_path: Path) -> None:
    result = detection()
    assert result.masks is not None
    expected = draw(result.image, result.boxes, result.labels, NAMES, result.scores, list(result.masks))
    assert np.array_equal(np.asarray(result.plot()), expected)
    assert (expected == colour(2)).all(axis=2).any()
    labels = semantic()
    assert np.array_equal(np.asarray(labels.plot()), overlay(labels.image, labels.labels, NAMES))
    file = tmp_path / "a.png"
    Image.fromarray(result.image).save(file)
    from_file = replace(result, path=file, pixels=None)
    assert np.array_equal(np.asarray(from_file.plot()), expected)
    scores = np.array([0.7, 0.2, 0.1], np.float32)
    classes = ClassificationResult(
        image_size=(40, 60), class_names=NAMES, pixels=result.image, labels=np.array([1, 0, 2]), scores=scores
    )
    assert classes.top_k(2) == pytest.approx({"green": 0.7, "red": 0.2})
    assert (np.asarray(classes.plot()) == colour(1)).all(axis=2).any()


def test_supervision_gets_its_own_types(monkeypatch: pytest.MonkeyPatch) -> None:
    def boxes(masks: NDArray[np.bool_]) -> str:
        return f"boxes of {len(masks)}"

    fake = SimpleNamespace(Detections=dict, Classifications=dict, mask_to_xyxy=boxes)
    monkeypatch.setitem(sys.modules, "supervision", fake)
    result: dict[str, Any] = detection().to_supervision()
    assert np.array_equal(result["xyxy"], [[5, 10, 25, 30]])
    assert result["mask"].shape == (1, 40, 60)
    assert result["confidence"].tolist() == [0.75]
    assert result["class_id"].tolist() == [2]
    assert result["data"]["class_name"].tolist() == ["blue"]
    result = semantic().to_supervision()
    assert (result["xyxy"], result["class_id"].tolist()) == ("boxes of 2", [0, 2])
    assert result["mask"].sum(axis=(1, 2)).tolist() == [600 - 91, 91]


def test_supervision_need_not_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(DetsegError, match="pip install supervision"):
        detection().to_supervision()
