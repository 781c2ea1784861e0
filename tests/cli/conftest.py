"""One training on tiny images, for the tests of all commands that need a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detseg import cli
from tests.colours import write_colours

CONFIG = """\
model:
  class_path: FasterRCNN
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
      sampler:
        batch_size_per_image: 16
        positive_fraction: 0.25
data: data/colours.yaml
trainer:
  max_epochs: 2
  accelerator: cpu
"""
DATA = """\
class_path: COCO
init_args:
  root: colours
  num_workers: 0
  transforms:
    - class_path: Resize
      init_args:
        size: 64
        max_size: 64
    - RandomHorizontalFlip
"""
SIZES = ("small", "medium", "large")
COCO_NAMES = ["AP", "AP50", "AP75", *(f"AP_{x}" for x in SIZES), *(f"AR_{x}" for x in (1, 10, 100, *SIZES))]
BEST = "runs/tiny/best.ckpt"

Refused = Callable[..., str]


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and data, where one training has run."""
    folder = tmp_path_factory.mktemp("commands")
    write_colours(folder / "colours", train=5, val=3)
    (folder / "configs" / "data").mkdir(parents=True)
    (folder / "configs" / "tiny.yaml").write_text(CONFIG)
    (folder / "configs" / "data" / "colours.yaml").write_text(DATA)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cli.main(["train", "--config", "tiny.yaml"])  # a bare name, found in configs/
    return folder


def entries(folder: str | Path) -> list[dict[str, Any]]:
    """Parse the lines that a prediction wrote to a folder."""
    return [json.loads(line) for line in Path(folder, "predictions.jsonl").read_text().splitlines()]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that ends with an error, and return what it prints."""

    def run(command: str, *arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main([command, *arguments])
        assert ended.value.code in (1, 2)
        printed = capsys.readouterr()
        assert "AP50" not in printed.out  # nothing was evaluated
        return printed.err

    return run
