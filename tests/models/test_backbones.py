"""Every family of backbones trains a detector, through a feature pyramid and as a single map."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from detseg.modules import FPN, TwoMLPHead, backbones
from detseg.modules.backbones import Backbone, ConvNet
from tests.models.detectors import faster_rcnn
from tests.models.tester import CLASSES, backward, rows, scene

pytestmark = pytest.mark.usefixtures("quick_initialization")

# Every anchor is drawn, so that every map of a pyramid has a gradient.
SMALL: dict[str, Any] = {
    "rpn_batch_size_per_image": 10**6,
    "rpn_pre_nms_top_n": (30, 30),
    "rpn_post_nms_top_n": (20, 20),
    "batch_size_per_image": 16,
    "detections_per_image": 10,
}


def smallest(kind: type[Backbone]) -> dict[str, Any]:
    """The arguments of the smallest network, or almost."""
    if kind is backbones.Timm:
        return {"name": "test_resnet"}
    if kind is backbones.ResNet:
        return {"name": "resnet18"}
    return kind.variants()[-1 if kind in (backbones.MobileNetV1, backbones.MobileNetV3, backbones.SqueezeNet) else 0]


FAMILIES = [
    kind for kind in (getattr(backbones, name) for name in backbones.__all__) if kind not in (Backbone, ConvNet)
]


@pytest.mark.parametrize("pyramid", [True, False])
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_detector_trains(kind: type[Backbone], pyramid: bool) -> None:
    torch.manual_seed(0)
    given = smallest(kind)
    if pyramid:
        backbone: Backbone = FPN(kind(**given), channels=16)
    else:
        with torch.device("meta"):
            stages = kind(**given).stages
        backbone = kind(**given, stages=[stages[-2]])
    settings = SMALL if pyramid else {**SMALL, "rpn_sizes": [[16, 32, 64]]}
    model = faster_rcnn(backbone, CLASSES, TwoMLPHead(channels=16), **settings).train()
    batch = rows(scene(), [1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)  # moves by as much whatever the scale of a gradient
    before = {name: value.clone() for name, value in model.named_parameters()}
    for _ in range(2):
        losses = backward(model, batch)
        assert all(loss.isfinite() for loss in losses.values())
        optimizer.step()
    assert all(value.isfinite().all() for value in model.parameters())
    same = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    assert same == []
