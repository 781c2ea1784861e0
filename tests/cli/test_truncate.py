"""`detseg truncate` of the checkpoint of a tiny training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from detseg import checkpoint, cli
from detseg.models import FasterRCNN
from detseg.modules import FPN
from detseg.modules.backbones import MobileNetV2
from detseg.tasks import DetectionTask
from tests.cli.conftest import BEST, COCO_NAMES, Refused


@pytest.fixture(autouse=True)
def here(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_run)


def test_truncation_gives_a_checkpoint_with_a_smaller_head() -> None:
    cli.main(["truncate", BEST, "small/quick.ckpt", "--fc6", "8", "--fc7", "32"])
    quick, whole = (checkpoint.load(file).model.roi_heads.box_head for file in ("small/quick.ckpt", BEST))
    assert [tuple(layer.weight.shape) for layer in (*quick.fc6, *quick.fc7)] == [(8, 784), (32, 8), (32, 32), (32, 32)]
    best = torch.linalg.svd(whole.fc6.weight.detach().double())
    rank8 = (best.U[:, :8] * best.S[:8]) @ best.Vh[:8]
    torch.testing.assert_close((quick.fc6[1].weight @ quick.fc6[0].weight).double(), rank8, rtol=0, atol=1e-5)
    cli.main(["evaluate", "--checkpoint", "small/quick.ckpt", "--metrics", "quick.json"])
    assert json.loads(Path("quick.json").read_text()).keys() >= set(COCO_NAMES)


def test_truncation_says_what_cannot_be(refused: Refused) -> None:
    said = refused("truncate", BEST, "x.ckpt", "--fc6", "33")
    assert f"error: {BEST}: fc6: rank 33 must be between 1 and 32" in said
    assert "quick.ckpt: fc6 has been truncated already" in refused("truncate", "small/quick.ckpt", "x.ckpt")
    assert not Path("x.ckpt").exists()


def test_truncation_of_a_head_that_the_network_made_itself(refused: Refused) -> None:
    task = DetectionTask(FasterRCNN(FPN(MobileNetV2(), channels=8), num_classes=3))
    checkpoint.save(task, "own_head.ckpt")
    cli.main(["truncate", "own_head.ckpt", "own_quick.ckpt", "--fc6", "16", "--fc7", "16"])
    assert checkpoint.load("own_quick.ckpt").model.roi_heads.box_head.fc6[0].out_features == 16
    said = refused("truncate", "own_head.ckpt", "x.ckpt", "--fc6", "300", "--fc7", "1024")
    assert "with --fc6 300 --fc7 1024 the head has" in said
    assert not Path("x.ckpt").exists()
