"""`detseg export`: files, their proof, and refused options."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import detseg
from detseg import checkpoint, cli
from detseg.cli import publish
from detseg.export.delivery import export
from detseg.runtime import Predictor
from detseg.tasks import ClassificationTask, SegmentationTask
from tests.export.models import make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exporting")
    checkpoint.save(ClassificationTask(make("classifier")), folder / "classifier.ckpt")  # type: ignore[arg-type]
    checkpoint.save(SegmentationTask(make("fcn")), folder / "fcn.ckpt")  # type: ignore[arg-type]
    return folder


def test_a_checkpoint_becomes_a_file_with_its_proof(folder: Path) -> None:
    (folder / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (80, 90), (80 * number, 10, 99)).save(folder / "images" / f"{number}.png")
    cli.main(["export", str(folder / "classifier.ckpt"), "--images", str(folder / "images")])
    report = json.loads((folder / "classifier.onnx.proof.json").read_text())
    assert report["images"] == 200
    assert report["passed"]
    (result,) = Predictor(folder / "classifier.onnx")(folder / "images" / "1.png")
    assert result.scores.sum() == pytest.approx(1, abs=1e-5)


def test_a_published_folder_holds_a_proved_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "export", partial(export, count=8))  # the proof of all images is tested above
    cli.main(
        ["publish", str(folder / "fcn.ckpt"), "--out", str(folder / "published"), "--onnx", "true", "--size", "96x96"]
    )
    names = ["card.json", "model.onnx", "model.onnx.proof.json", "model.safetensors"]
    assert sorted(path.name for path in (folder / "published").iterdir()) == names
    assert json.loads((folder / "published" / "model.onnx.proof.json").read_text())["passed"]
    Image.new("RGB", (80, 90), (80, 10, 99)).save(folder / "one.png")
    (expected,) = detseg.load(folder / "published")(folder / "one.png")
    (actual,) = Predictor(folder / "published" / "model.onnx")(folder / "one.png")
    assert np.array_equal(actual.labels, expected.labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fcn.ckpt"], "--size: images of this model keep their size; give the height and width of the largest"),
        (["fcn.ckpt", "--size", "96"], "--size 96: must be a height and a width, such as 800x1344"),
        (["fcn.ckpt", "--size", "100x96"], "--size: both sides of 100x96 must be multiples of 32"),
        (["classifier.ckpt", "--size", "96x96"], "--size: this classifier takes 64x64, not 96x96"),
        (["fcn.ckpt", "--size", "96x96", "--out", "a.ckpt"], "--out a.ckpt: the name of such a file ends with .onnx"),
        (["fcn.ckpt", "--format", "tflite"], "format (command line): must be onnx or openvino or torch, not tflite"),
        (["missing.ckpt"], "missing.ckpt: no such file"),
    ],
)
def test_a_wrong_option_is_named(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit):
        cli.main(["export", *arguments])
    assert message in capsys.readouterr().err
