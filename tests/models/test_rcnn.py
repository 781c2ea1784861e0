from __future__ import annotations

from typing import Any

import pytest

from detseg.errors import DataError
from detseg.models import RCNN, Detector
from detseg.modules.backbones import MobileNetV1
from tests.models.tester import CLASSES, DetectorTester, detect, scene

# Boxes that are not refined must be good ones, and crops no larger than a network of this size needs.
SMALL = {"size": 40, "context": 4, "scores": "softmax", "box_regression": False, "iou": 0.7, "samples": 24}


class TestWithSoftmax(DetectorTester):
    needs_proposals = True
    exhaustive = {"samples": 10**6, "positive_fraction": 1.0}

    @classmethod
    def make(cls, **arguments: Any) -> Detector:
        return RCNN(MobileNetV1(alpha=0.25), CLASSES, **{**SMALL, **arguments})


def test_without_proposals_it_says_how_to_make_them() -> None:
    network, batch = TestWithSoftmax.make(), scene()
    for call in (lambda: network.loss(batch), lambda: detect(network, batch), lambda: network.validate(batch)):
        with pytest.raises(DataError, match=r"R-CNN needs proposals.*tools/propose.py .*selective_search"):
            call()
