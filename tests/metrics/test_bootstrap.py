"""Replicates of the bootstrap, against the average precision of data sets whose images are really repeated."""

from __future__ import annotations

import numpy as np
import pytest

from detseg.metrics import Detections
from detseg.metrics.bootstrap import bootstrap_ap, image_weights, interval
from detseg.metrics.coco import coco_ap
from detseg.metrics.detections import GroundTruth
from tests.metrics.matched import make


def repeated(table: GroundTruth | Detections, order: np.ndarray) -> dict:
    """The columns of the objects or detections of the images in ``order``, numbered anew."""
    rows = [np.flatnonzero(table.images == image) for image in order]
    index = np.concatenate(rows)
    columns = {name: getattr(table, name)[index] for name in ("boxes", "labels")}
    return columns | {"images": np.repeat(np.arange(len(order)), [len(one) for one in rows]), "index": index}


def test_replicates_equal_the_ap_of_repeated_images() -> None:
    made = make(3, images=12)
    weights = image_weights(12, 1)[:4]
    assert weights.sum(axis=1).tolist() == [12] * 4
    values = bootstrap_ap(made.truth, made.detections, made.matches, 5, weights)
    for replicate, counts in enumerate(weights.astype(int)):
        order = np.repeat(np.arange(12), counts)
        objects, detected = repeated(made.truth, order), repeated(made.detections, order)
        index = objects.pop("index")
        truth = made.truth._replace(
            **objects,
            **{name: getattr(made.truth, name)[index] for name in ("areas", "crowd", "difficult")},
            sizes=made.truth.sizes[order],
            image_index=None,
            image_ids=None,
        )
        detections = Detections(scores=made.detections.scores[detected.pop("index")], **detected)
        expected = coco_ap(truth, detections, made.annotations.classes)
        of_classes = [expected[f"AP/class{label}"] for label in range(5)]
        assert values[replicate].mean(axis=1) == pytest.approx(of_classes, abs=1e-6, nan_ok=True)
        assert np.nanmean(values[replicate][:, 0]) == pytest.approx(expected["AP50"], abs=1e-6)


def test_interval_is_that_of_the_percentiles() -> None:
    assert interval([np.nan, *range(101)]) == pytest.approx((2.5, 97.5))
    assert np.isnan(interval([np.nan])).all()
