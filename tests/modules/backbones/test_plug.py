"""A backbone from outside the package: one file, named by its class path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser

from detseg.configurable import from_config, to_config
from detseg.models import Detector, FasterRCNN
from detseg.modules import FPN
from detseg.structures import Batch, Instances

TOY = """
from torch import Tensor, nn
from detseg.modules.backbones import Backbone

class Toy(Backbone):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, width, 8, stride=8), nn.Conv2d(width, 2 * width, 2, stride=2)
        self.channels, self.strides = [width, 2 * width], [8, 16]

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> list[Tensor]:
        fine = self.fine(self.normalize(images, image_sizes)).relu()
        return [fine, self.coarse(fine).relu()]
"""

SETTINGS = """
model:
  class_path: FasterRCNN
  init_args:
    num_classes: 2
    backbone:
      class_path: FPN
      init_args:
        channels: 16
        backbone:
          class_path: toy_backbone.Toy
          init_args:
            width: 4
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "toy_backbone.py").write_text(TOY)
    (tmp_path / "toy.yaml").write_text(SETTINGS)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def from_python(folder: Path) -> FasterRCNN:
    from toy_backbone import Toy

    return FasterRCNN(FPN(Toy(width=4), channels=16), num_classes=2)


def from_yaml(folder: Path) -> FasterRCNN:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(Detector, "model")
    return parser.instantiate_classes(parser.parse_args(["--config", str(folder / "toy.yaml")])).model


@pytest.mark.parametrize("make", [from_python, from_yaml])
def test_detector_on_a_foreign_backbone(folder: Path, make) -> None:
    torch.manual_seed(0)
    model = make(folder)
    assert type(model.backbone.backbone).__module__ == "toy_backbone"
    boxes = torch.tensor([[[8.0, 8, 40, 40]], [[16.0, 0, 48, 32]]])
    targets = Instances(boxes, torch.ones(2, 1, dtype=torch.bool), torch.tensor([[0], [1]]))
    images, sizes = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), torch.full((2, 2), 64)
    losses = model.loss(Batch(images, sizes, targets, torch.arange(2), sizes))
    sum(losses.values()).backward()
    assert model.backbone.backbone.fine.weight.grad.abs().sum() > 0
    with torch.no_grad():
        expected = model.eval()(images, sizes)
        rebuilt = from_config(json.loads(json.dumps(to_config(model)))).eval()
        rebuilt.load_state_dict(model.state_dict())
        assert torch.equal(rebuilt(images, sizes).boxes, expected.boxes)
    assert expected.boxes.shape[::2] == (2, 4)
