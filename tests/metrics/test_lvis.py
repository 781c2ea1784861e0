"""The LVIS benchmark: federated classes and 300 detections of an image."""

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.errors import DataError
from detseg.metrics import CocoAP, Detections, LvisAP, coco_results
from tests.metrics import generated
from tests.metrics.test_coco import as_coco

NUMBERS = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_300", "", ""]
NUMBERS += ["AR_small", "AR_medium", "AR_large", "", "", "AP_rare", "AP_common", "AP_frequent"]


def lvis(truth: DetectionAnnotations, seed: int) -> dict:
    """A file of the benchmark: each class may be absent from an image without it, or incomplete in any."""
    random = np.random.default_rng(seed)
    content = as_coco(truth)
    for row, image in enumerate(content["images"]):
        present = {truth.category_ids[label] for label in truth.labels[truth.objects(row)]}
        image["neg_category_ids"] = [c for c in truth.category_ids if c not in present and random.random() < 0.5]
        image["not_exhaustive_category_ids"] = [c for c in truth.category_ids if random.random() < 0.4]
    for category, frequency in zip(content["categories"], "rcffr", strict=True):
        category["frequency"] = frequency
    return content


def reference(content: dict, results: list[dict]) -> dict[str, float]:
    """The same figures by faster-coco-eval, with nan for its -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(json.loads(json.dumps(content)))
        evaluation = COCOeval_faster(truth, truth.loadRes(json.loads(json.dumps(results))), "bbox", lvis_style=True)
        evaluation.params.maxDets = [300]
        evaluation.run()
    stats = evaluation.all_stats.tolist()
    return {name: math.nan if value == -1 else value for name, value in zip(NUMBERS, stats, strict=False) if name}


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_benchmark(tmp_path: Path, seed: int) -> None:
    truth = generated.annotations(seed, crowds=False)
    detected = generated.detections(truth, seed + 100)
    content = lvis(truth, seed)
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    values = generated.compute(LvisAP(str(tmp_path / "lvis.json"), truth.classes), truth, detected)
    expected = reference(content, coco_results(truth, detected))
    assert {name: values[name] for name in expected} == pytest.approx(expected, nan_ok=True)
    assert values["AP"] > generated.compute(CocoAP(truth.classes), truth, detected)["AP"]


def test_the_300_best_detections_of_an_image_count(tmp_path: Path) -> None:
    """299 detections of one class go before two of another, of which the better one alone counts."""
    truth = generated.annotations(1, images=2, crowds=False).subset([0])
    chosen = np.flatnonzero(truth.labels != truth.labels[0])[:1]
    kept = truth.where(np.isin(np.arange(len(truth.labels)), [0, *chosen]))
    first, second = kept.boxes
    boxes = np.concatenate([np.repeat(first[None] + 500, 299, axis=0), second[None] + 500, second[None]])
    labels = np.array([*[kept.labels[0]] * 299, kept.labels[1], kept.labels[1]])
    (tmp_path / "lvis.json").write_text(json.dumps(lvis(kept, 0)))
    for scores, expected in ((np.linspace(0.9, 0.1, 301), 0.0), (np.linspace(0.1, 0.9, 301), 1.0)):
        detected = Detections(np.zeros(301, np.int64), boxes, labels, scores)
        values = generated.compute(LvisAP(str(tmp_path / "lvis.json"), kept.classes), kept, detected)
        assert values[f"AP/{kept.classes[kept.labels[1]]}"] == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["images"].pop(), r"lvis\.json: has no image \d+ \(1 are missing\)"),
        (lambda content: content["categories"].pop(), r"lvis\.json: has no class class4"),
        (lambda content: content["images"][0].pop("neg_category_ids"), "is not an LVIS annotation file.*neg_category"),
        (lambda content: content.clear(), "is not an LVIS annotation file.*images"),
    ],
)
def test_a_file_of_other_images_is_named(tmp_path: Path, change, message: str) -> None:
    truth = generated.annotations(0, crowds=False)
    content = lvis(truth, 0)
    change(content)
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        generated.compute(LvisAP(str(tmp_path / "lvis.json"), truth.classes), truth, generated.no_detections())


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    truth = generated.annotations(0, crowds=False)
    for content in (None, b"\xff{", b"version https://git-lfs.github.com/spec/v1\n"):
        if content is not None:
            (tmp_path / "lvis.json").write_bytes(content)
        with pytest.raises(DataError, match=r"lvis\.json: cannot be read by LvisAP: "):
            generated.compute(LvisAP(str(tmp_path / "lvis.json")), truth, generated.no_detections())
