"""Mask R-CNN by the commands, on tiny images."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import indent

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as reference

from detseg import checkpoint, cli
from tests.cli.conftest import DATA, entries
from tests.colours import write_colours

CONFIG = f"""\
model:
  class_path: MaskRCNN
  init_args:
    backbone:
      class_path: FPN
      init_args:
        channels: 16
        backbone: MobileNetV2
    rpn:
      post_nms_top_n: [20, 20]
    roi_heads:
      box_head:
        class_path: TwoMLPHead
        init_args:
          channels: 32
      mask_head:
        channels: 8
      postprocessor:
        nms_threshold: 0.5
        detections_per_image: 5
      sampler:
        batch_size_per_image: 16
        positive_fraction: 0.25
data:
{indent(DATA, "  ")}trainer:
  max_epochs: 1
  accelerator: cpu
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set and a finished run."""
    folder = tmp_path_factory.mktemp("masks")
    write_colours(folder / "colours")
    (folder / "mask.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cli.main(["train", "--config", "mask.yaml"])
    return folder


def test_data_are_asked_for_masks_without_being_told(folder: Path) -> None:
    assert checkpoint.load(folder / "runs/mask/best.ckpt").data_recipe["init_args"]["masks"] == "all"
    figures = json.loads((folder / "runs/mask/metrics.json").read_text())
    assert {"AP", "mask_AP", "mask_AP50", "mask_AP/red", "loss_mask"} <= set(figures)
    assert list((folder / "runs/mask/pictures").iterdir())


@pytest.mark.parametrize("data", [[], ["--data=COCO", "--data.root=colours", "--data.num_workers=0"]])
def test_evaluation_writes_run_lengths(folder: Path, monkeypatch: pytest.MonkeyPatch, data: list[str]) -> None:
    monkeypatch.chdir(folder)
    cli.main(["evaluate", "--checkpoint", "runs/mask/best.ckpt", "--out", "results.json", "--metrics", "m.json", *data])
    assert "mask_AP" in json.loads(Path("m.json").read_text())
    results = json.loads(Path("results.json").read_text())
    assert results
    for result in results:
        assert reference.decode(result["segmentation"]).shape == (64, 64)


def test_prediction_writes_run_lengths_and_maps_of_instances(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    command = ["colours/val", "--checkpoint", "runs/mask/best.ckpt", "--threshold", "0"]
    cli.main(["predict", *command, "--out", "out", "--instances", "true"])
    for entry in entries("out"):
        masks = [reference.decode(mask).astype(bool) for mask in entry["masks"]]
        assert len(masks) == len(entry["boxes"]) > 0
        numbers = np.array(Image.open(Path("out") / entry["instances"]))
        expected = np.zeros((64, 64), int)
        for number in reversed(range(len(masks))):
            expected[masks[number]] = number + 1
        assert np.array_equal(numbers, expected)
    one = Image.open(sorted(Path("colours/val").iterdir())[0]).convert("RGB")
    for name in ("same.png", "same.jpg"):
        one.save(name)
    cli.main(["predict", "same.png", "same.jpg", *command[1:], "--out", "same", "--instances", "true"])
    assert {file.name for file in Path("same").glob("*.instances.png")} == {
        "same.png.instances.png",
        "same.jpg.instances.png",
    }
    cli.main(["predict", *command, "--out", "plain"])
    assert not list(Path("plain").glob("*.instances.png"))
