"""`detseg train --data FOLDER` without a configuration."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from detseg.cli._configs import find_config, find_configs
from detseg.cli._own_data import choose_side, with_own_config
from detseg.data.annotations.detection import ImageColumns, ObjectColumns, from_columns
from tests.cli.conftest import Refused


@pytest.mark.parametrize(
    ("short_edge", "side", "expected"),
    [
        (1200, 400, 320),
        (1200, 56, 512),  # of 23.9 pixels there: (23.9 / 32) ** 2 of the smallest anchor is 0.56, and at 416 it is 0.37
        (1200, 40, 800),  # 0.69, and at 640 it is 0.44
        (400, 15, 320),  # would need more than the 400 pixels that there are
    ],
)
def test_short_edge_is_the_smallest_at_which_anchors_cover_the_objects(
    short_edge: int, side: int, expected: int
) -> None:
    corners = np.array([[10.0, 10], [100, 200], [300, 50]])
    images = ImageColumns(Path(), ["a.jpg"], np.array([1]), np.array([[short_edge, 1600]], dtype=np.int32))
    objects = ObjectColumns(
        np.zeros(3, np.int64), np.hstack([corners, corners + side]), np.zeros(3, np.int64), np.arange(3)
    )
    assert choose_side(from_columns(Path(), {"thing": 1}, images, objects))[0] == expected


def test_sizes_are_chosen_and_logged_and_can_be_set(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Five images in batches of four: 480 steps are 240 epochs, and milestones keep their share of 12 epochs."""
    monkeypatch.chdir(tiny_run)
    with caplog.at_level(logging.INFO, "detseg"):
        config, transforms, *chosen, given = with_own_config(find_configs(["--data", "colours"]))
    assert config == f"--config={find_config('faster_rcnn_mobilenet_v2.yaml')}"
    assert json.loads(transforms.partition("=")[2])[0]["init_args"] == {"size": 320, "max_size": 533}
    assert chosen == [
        "--trainer.max_epochs=240", "--trainer.check_val_every_n_epoch=20", "--task.schedule.milestones=[160, 220]",
    ]  # fmt: skip
    assert given == "--data=colours"
    assert "a short edge of 320 pixels, at which anchors cover" in caplog.text
    assert "240 epochs of 2 steps" in caplog.text
    for options, milestones in (
        ("--trainer.max_epochs 3 --trainer.max_epochs 24", [16, 22]),
        ("--data.batch_size 1", [64, 88]),  # 96 epochs of five steps
        ("--data.batch_size auto --trainer.max_epochs many", [160, 220]),  # the parser answers to "many"
    ):
        assert f"--task.schedule.milestones={milestones}" in with_own_config(
            find_configs(["--data", "colours", *options.split()])
        )
    (*sizes, weights) = with_own_config(find_configs(["--data=colours", "--model.backbone.backbone.weights", "null"]))
    assert sizes == [config, transforms, *chosen, given]
    assert weights == "--model.backbone.backbone.weights=null"
    models = ("--config=tiny.yaml", "--model=FCN", "--model.class_path=FCN")
    for line in (*(["--data", "colours", model] for model in models), ["--data", "COCO"], []):
        assert with_own_config(find_configs(line)) == find_configs(line)


def test_folder_without_boxes_names_other_configurations(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "photo.txt").write_text("")
    assert "no labels of a known format" in (message := refused("train", "--data", str(tmp_path)))
    assert "Without --config, a folder must have boxes; for masks, segmentation" in message
