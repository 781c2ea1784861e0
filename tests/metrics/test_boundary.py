"""Boundary AP, beside faster-coco-eval's."""

import contextlib
import io
import math

import pytest
from faster_coco_eval import COCO, COCOeval_faster

from detseg.metrics import BoundaryAP, coco_results
from tests.metrics import generated
from tests.metrics.test_coco import NUMBERS, as_coco, mask_ap, with_masks


@pytest.mark.parametrize("seed", range(3))
def test_equals_faster_coco_eval(seed: int) -> None:
    truth = generated.annotations(seed, images=5 + seed)
    truth, detected = with_masks(truth, generated.detections(truth, seed + 50))
    assert truth.masks is not None
    dataset = as_coco(truth)
    for row, entry in enumerate(dataset["annotations"]):
        entry["segmentation"] = {"size": [240, 320], "counts": truth.masks.rle(row, 240, 320).decode()}
    results = [{key: value for key, value in one.items() if key != "bbox"} for one in coco_results(truth, detected)]
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO(dataset)
        evaluation = COCOeval_faster(annotated, annotated.loadRes(results), "boundary")
        evaluation.run()
    values = generated.compute(BoundaryAP(truth.classes), truth, detected)
    expected = zip(NUMBERS, evaluation.stats.tolist(), strict=False)  # recalls at an IoU follow
    expected = {f"boundary_{name}": math.nan if value == -1 else value for name, value in expected}
    assert {name: values[name] for name in expected} == pytest.approx(expected, nan_ok=True)
    assert values["boundary_AP"] < mask_ap(truth, detected)["AP"]


def test_without_masks_there_is_no_value() -> None:
    truth = generated.annotations(0)
    assert generated.compute(BoundaryAP(truth.classes), truth, generated.detections(truth, 1)) == {}
