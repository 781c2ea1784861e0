from __future__ import annotations

import math
from dataclasses import replace

import pytest

from detseg.metrics import CocoAP, coco_results
from detseg.metrics.pycocotools_evaluator import compare, largest_difference, pycocotools_ap
from tests.metrics import generated
from tests.metrics.test_coco import as_coco, reference, with_masks


@pytest.mark.parametrize("seed", range(2))
def test_it_is_pycocotools(seed: int) -> None:
    """Against a file that pycocotools reads itself."""
    truth = generated.annotations(seed)
    detected = generated.detections(truth, seed + 20)
    metric = CocoAP(truth.classes)
    values = generated.compute(metric, truth, detected)
    official = pycocotools_ap(metric.ground_truth, metric.detections, truth.classes)
    from_file = reference(as_coco(truth), coco_results(truth, detected))
    assert official == pytest.approx(from_file, abs=1e-12, nan_ok=True)
    assert largest_difference(values, official) < 1e-12


def test_difficult_objects_and_masks() -> None:
    truth = generated.annotations(4, names=True)
    assert truth.difficult.any()
    truth, detected = with_masks(replace(truth), generated.detections(truth, 30))
    metric = CocoAP(truth.classes)
    values = generated.compute(metric, truth, detected)
    lines = compare(metric, values).splitlines()
    assert lines[0].split() == ["detseg", "pycocotools"]
    assert lines[1].split() == ["AP", f"{100 * values['AP']:.1f}", f"{100 * values['AP']:.1f}"]
    assert len(lines) == 1 + 24 + 1
    assert float(lines[-1].rpartition(" ")[2]) < 1e-12
    with pytest.raises(ValueError, match="has not been computed"):
        compare(CocoAP(), {})


def test_inferred_classes() -> None:
    """A metric without ``classes`` names them by the labels that occur."""
    truth = generated.annotations(4)
    metric = CocoAP()
    values = generated.compute(metric, truth, generated.detections(truth, 30))
    lines = compare(metric, values).splitlines()
    assert len([name for name in values if name.startswith("AP/")]) > 1
    assert lines[1].split() == ["AP", f"{100 * values['AP']:.1f}", f"{100 * values['AP']:.1f}"]
    assert float(lines[-1].rpartition(" ")[2]) < 1e-12


def test_the_largest_difference() -> None:
    assert largest_difference({"a": 1.0, "b": math.nan, "c": 5.0}, {"a": 0.75, "b": math.nan}) == 0.25
    assert largest_difference({"a": 1.0}, {"a": math.nan}) == math.inf
