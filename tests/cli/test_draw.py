"""`detseg draw`: every topic on the tiny training, and the errors of its options."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detseg import cli
from detseg.cli._backbones import checkpoint_names
from detseg.cli.bias import _conflicts as make_conflicts
from detseg.errors import DataError
from tests.cli.conftest import BEST, Refused

IMAGE = "colours/val/val0.png"


@pytest.fixture(autouse=True)
def here(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_run)


def test_pictures_of_a_detector(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["draw", "anchors", "colours", "--side", "64", "--checkpoint", BEST, "--out", "new/anchors.png"])
    counts = [list(map(int, line.split())) for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[:2] for row in counts] == [[4, 768], [8, 192], [16, 48], [32, 12], [64, 3]]  # 3 a cell
    assert all(total == positive + negative + ignored for _, total, positive, negative, ignored in counts)
    cli.main(["draw", "proposals", "colours", "--side", "64", "--checkpoints", f"{BEST},{BEST}", "--count", "5"])
    cli.main(["draw", "predictions", "colours/val", "--checkpoints", BEST, "--count", "2"])
    cli.main(["draw", "efficiency", IMAGE, "--checkpoints", BEST, "--repeats", "2"])
    name, millions, billions, *_ = capsys.readouterr().out.splitlines()[-1].split()
    assert name == "tiny"
    assert 2 < float(millions) < 4  # MobileNetV2 has 3.5 with its classifier, 2.2 without
    assert 0.01 < float(billions) < 1
    for path in ("new/anchors.png", "proposals.png", "predictions.png", "efficiency.png"):
        assert min(Image.open(path).size) > 60


def test_pictures_without_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["draw", "convolution", "--size", "7", "--kernel", "3", "--dilation", "2"])
    assert "7 to 3 cells" in capsys.readouterr().out
    cli.main(["draw", "receptive-fields", "--stack", "3,3"])
    assert "one 5 x 5: 25 C²: 5 pixels" in capsys.readouterr().out
    cli.main(["draw", "roi-pooling", IMAGE, "--box", "8,8,40,44", "--stride", "8", "--bins", "2"])
    off = dict(re.findall(r"(RoI\w+): (\S+) pixels off", capsys.readouterr().out))
    assert float(off["RoIAlign"]) == 0 < float(off["RoIPool"])
    cli.main(["draw"])
    assert "receptive-fields" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("anchor", "anchor: no such topic; choose from convolution"),
        ("convolution --kernel 9", "--kernel 9: is larger than the map; lower it"),
        ("convolution --stride 0", "--stride 0: must be at least 1"),
        ("receptive-fields", "give --backbone with its weights, or --stack 3,3,3"),
        ("receptive-fields --stack 2", "--stack 2: must be odd numbers"),
        (f"roi-pooling {IMAGE} --box 1,2,3", "--box 1,2,3: must be x1,y1,x2,y2 with"),
        (f"roi-pooling {IMAGE} --box 1,2,1e9,inf", "must be x1,y1,x2,y2 with x1 < x2 and y1 < y2, inside the image"),
        ("anchors colours --index 9", "--index 9: colours has 5 images"),
        (f"efficiency {IMAGE} --checkpoints {BEST} --metric mAP", f"{BEST}: has no metric mAP; it has"),
    ],
)
def test_wrong_options_are_named(arguments: str, message: str, refused: Refused) -> None:
    assert message in refused("draw", *arguments.split())


def test_checkpoints_of_the_same_file_name_are_told_apart() -> None:
    assert checkpoint_names("a/best.ckpt,b/last.ckpt") == {"best": "a/best.ckpt", "last": "b/last.ckpt"}
    assert [*checkpoint_names("a/best.ckpt,b/best.ckpt")] == ["a/best.ckpt", "b/best.ckpt"]


@pytest.mark.parametrize(("classes", "message"), [(("ball", "cube"), "has no image of cube"), (("ball",), "one class")])
def test_cues_conflict_between_classes_with_images(classes: tuple[str, ...], message: str) -> None:
    pictures: Any = SimpleNamespace(labels=np.zeros(2, np.int64), classes=classes)
    options: Any = SimpleNamespace(seed=0, count=1, folder="things")
    with pytest.raises(DataError, match=f"things: the split .*{message}"):
        make_conflicts(pictures, None, options)
