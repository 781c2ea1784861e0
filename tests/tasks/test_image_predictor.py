"""Validations with a predictor of several views in the place of the model."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch import Trainer
from torchmetrics.detection import MeanAveragePrecision

from detseg.inference import MultiViewPredictor, TTAConfig
from detseg.inference.tile_size import choose_tile_size
from detseg.metrics import CocoAP
from detseg.preprocessing import ResizeConfig
from detseg.tasks import DetectionTask
from detseg.tasks.image_predictor import ImagePredictor
from tests.colours import ColourMaskDetector, colours, write_colours


def test_a_predictor_takes_the_place_of_the_model(tmp_path: Path) -> None:
    data = colours(write_colours(tmp_path), masks="all")
    data.use_classes(["red", "green", "blue"])
    model, exact = ColourMaskDetector(blunder=0.5), ColourMaskDetector()
    for one in (model, exact):
        one.class_names, one.preprocessing = data.classes, ResizeConfig(64, 64)
    theirs = MeanAveragePrecision(iou_type=["bbox", "segm"], backend="faster_coco_eval")
    values = []
    for members in ((), (model,), (model, exact)):
        task = DetectionTask(model, metrics=[CocoAP(), theirs])
        if members:
            predictor = MultiViewPredictor(members, TTAConfig())
            task.predictor = ImagePredictor(lambda images: predictor(images, 2, 0), data)  # noqa: B023
        Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False).validate(
            task, data, verbose=False
        )
        assert bool(task.losses) == (not members)
        values.append({name: value for name, value in task.metric_values.items() if "AP" in name or "map" in name})
    plain, alone, ensemble = values
    assert 0 < plain["AP"] < 1
    assert plain["mask_AP"] > 0
    assert alone == pytest.approx(plain, nan_ok=True)
    assert ensemble["AP"] > plain["AP"]  # the second member makes no mistakes


@pytest.mark.parametrize(
    ("side", "long", "size", "reason"),
    [
        (20, 20, 480, "20 pixels or more, 13 after resizing the whole image, 33 in a tile"),  # 800 * 20 / 32 = 500
        (8, 100, 512, r"8 pixels or more, 5 .* fewer than 9 of 10 objects \(100 pixels\) would fit"),  # 100 / 0.2
        (60, 60, None, "no tiles: 3 of 4 objects have a side of 60 pixels or more, 40 after"),
        (20, 300, None, "no tiles: they would need 1504 pixels"),
    ],
)
def test_the_size_of_tiles_is_chosen_by_the_objects(side: int, long: int, size: int | None, reason: str) -> None:
    small, large = np.array([[10, 10, 10 + side, 10 + side]]), np.array([[0, 0, long, side * side / long]])
    boxes = np.concatenate([small.repeat(80, 0), large.repeat(20, 0)]).astype(float)
    sizes = np.array([[1200, 2000], [1200, 1600]])
    chosen, why = choose_tile_size(boxes, sizes, ResizeConfig(800, 1333), 0.2)
    assert chosen == size
    assert re.search(reason, why), why
    assert choose_tile_size(boxes, sizes, None, 0.2)[0] is None
    assert choose_tile_size(boxes[:0], sizes, ResizeConfig(), 0.2)[0] is None
