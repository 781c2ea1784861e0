"""Parts from outside the package: an RPN sampler and a box head, named by their class paths in a configuration."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from detseg import checkpoint, cli
from detseg.modules import BoxHead
from tests.colours import write_colours

PARTS = '''\
from torch import Tensor, nn

from detseg.modules import BalancedSampler, BoxHead


class FirstSampler(BalancedSampler):
    """Take the first candidates, positives before negatives."""

    calls = 0

    def __init__(self, batch_size_per_image: int = 8, positive_fraction: float = 0.5, reverse: bool = False) -> None:
        super().__init__(batch_size_per_image, positive_fraction)
        self.reverse = reverse

    def __call__(self, positive: Tensor, negative: Tensor, priority: Tensor) -> tuple[Tensor, Tensor]:
        FirstSampler.calls += 1
        order = 2 * positive.int() + negative.int()
        order, indices = order.sort(dim=1, descending=not self.reverse, stable=True)
        return indices[:, : self.batch_size_per_image], order[:, : self.batch_size_per_image] > 0


class MeanHead(BoxHead):
    """Average the bins, then one layer."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.channels, self.pool_size = channels, 3

    def build(self, in_channels: int) -> "MeanHead":
        if self.build_once(in_channels=in_channels):
            self.fc = nn.Linear(in_channels, self.channels)
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean(dim=(2, 3))).relu()
'''
CONFIG = """\
model:
  class_path: FasterRCNN
  init_args:
    backbone:
      class_path: FPN
      init_args:
        channels: 8
        backbone: MobileNetV2
    rpn:
      class_path: RPN
      init_args:
        post_nms_top_n: [20, 20]
        sampler:
          class_path: my_package.parts.FirstSampler
          init_args:
            batch_size_per_image: 4
    roi_heads:
      box_head: my_package.parts.MeanHead
data:
  class_path: COCO
  init_args:
    root: colours
    batch_size: 2
    workers: 0
trainer:
  accelerator: cpu
  max_steps: 1
  limit_val_batches: 1
  num_sanity_val_steps: 0
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    (tmp_path / "my_package" / "parts.py").write_text(PARTS)
    write_colours(tmp_path / "colours", train=2, val=1)
    (tmp_path / "plugged.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("package")
def test_parts_by_class_path_train_and_come_back_from_the_checkpoint() -> None:
    size = ["--data.transforms.size=64", "--data.transforms.max_size=64"]
    cli.main(["train", "--config", "plugged.yaml", *size])
    parts = sys.modules["my_package.parts"]
    assert parts.FirstSampler.calls > 0
    model = checkpoint.load("runs/plugged/last.ckpt").model
    assert type(model.rpn.sampler) is parts.FirstSampler
    assert (model.rpn.sampler.batch_size_per_image, model.rpn.sampler.reverse) == (4, False)
    head = model.roi_heads.box_head
    assert isinstance(head, BoxHead)
    assert type(head) is parts.MeanHead
    assert (head.fc.in_features, head.fc.out_features) == (8, 12)  # of the pyramid, of its own
    stored = torch.load("runs/plugged/last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(stored["model.roi_heads.box_head.fc.weight"], head.fc.weight)
