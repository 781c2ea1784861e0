"""``CocoAP`` in the place of ``torchmetrics.detection.MeanAveragePrecision``."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from detseg.metrics import CocoAP

NAMES = {"map": "AP", "map_50": "AP50", "map_75": "AP75"}
NAMES |= {f"map_{size}": f"AP_{size}" for size in ("small", "medium", "large")}
NAMES |= {f"mar_{size}": f"AR_{size}" for size in ("1", "10", "100", "small", "medium", "large")}
HEIGHT, WIDTH = 120, 160
# Those of COCO. Torchmetrics' own are rounded to float32, so that a recall of 7/25 does not reach .28.
THRESHOLDS = {
    "iou_thresholds": np.linspace(0.5, 0.95, 10).tolist(),
    "rec_thresholds": np.linspace(0, 1, 101).tolist(),
}


def ellipses(boxes: Tensor) -> Tensor:
    """Masks (n, H, W) of ellipses in boxes (n, 4)."""
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    x1, y1, x2, y2 = boxes[:, :, None, None].unbind(1)
    return ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1


def images(seed: int, masks: bool = False, empty: bool = True) -> tuple[list[dict], list[dict]]:
    """Predictions and targets, crowds among them; some images without objects or without predictions."""
    random = torch.Generator().manual_seed(seed)
    preds, targets = [], []
    for image in range(12):
        count = 0 if empty and image % 4 == 1 else int(torch.randint(1, 6, (), generator=random))
        sides = torch.randint(8, 70, (count, 2), generator=random)
        corners = torch.randint(0, 50, (count, 2), generator=random)
        boxes = torch.cat([corners, corners + sides], dim=1).float()
        labels = torch.randint(3, 7, (count,), generator=random)
        crowd = (torch.rand(count, generator=random) < 0.2).long()
        targets.append({"boxes": boxes, "labels": labels, "iscrowd": crowd})
        again = torch.arange(count).repeat(2)[torch.randperm(2 * count, generator=random)]
        moved = boxes[again] + torch.randint(-4, 5, (2 * count, 4), generator=random)
        moved = moved[: 0 if image == 6 else None]
        scores = torch.rand(len(moved), generator=random)
        preds.append({"boxes": moved, "scores": scores, "labels": labels[again][: len(moved)]})
        if masks:
            targets[-1]["masks"], preds[-1]["masks"] = ellipses(boxes), ellipses(moved)
    return preds, targets


def assert_equal(ours: dict[str, float], theirs: dict[str, Tensor], prefix: str = "") -> None:
    assert 0.1 < ours[f"{prefix}AP"] < 0.9
    for their_name, name in NAMES.items():
        expected = theirs[their_name].item()
        assert ours[prefix + name] == pytest.approx(math.nan if expected == -1 else expected, abs=1e-6, nan_ok=True)
    for label, value in zip(theirs["classes"].tolist(), theirs["map_per_class"].tolist(), strict=True):
        assert ours[f"{prefix}AP/{label}"] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_boxes_equal_torchmetrics(seed: int) -> None:
    ours, theirs = CocoAP(), MeanAveragePrecision(class_metrics=True, **THRESHOLDS)
    preds, targets = images(seed)
    for start in range(0, 12, 5):
        for metric in (ours, theirs):
            metric.update(preds[start : start + 5], targets[start : start + 5])
    assert_equal(ours.compute(), theirs.compute())


@pytest.mark.parametrize("seed", range(2))
def test_masks_without_boxes_equal_torchmetrics(seed: int) -> None:
    ours, theirs = CocoAP(), MeanAveragePrecision(iou_type="segm", class_metrics=True, **THRESHOLDS)
    preds, targets = images(seed, masks=True, empty=False)
    for one in (*preds, *targets):
        del one["boxes"]
    for metric in (ours, theirs):
        metric.update(preds, targets)
    assert_equal(ours.compute(), theirs.compute(), "mask_")


def test_no_image_is_left_out() -> None:
    """A detection in an image without objects is a false positive."""
    metric = CocoAP()
    box, label = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([1])
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    preds = [{"boxes": box, "labels": label, "scores": torch.tensor([score])} for score in (0.9, 0.8)]
    metric.update(preds, [nothing, {"boxes": box, "labels": label}])
    assert metric.compute()["AP"] == pytest.approx(0.5)
