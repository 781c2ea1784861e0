"""The libraries that imports and commands load, in one fresh process, each step after those before it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import detseg
from detseg import checkpoint
from detseg.models import Classifier
from detseg.modules.backbones import MobileNetV1
from detseg.preprocessing import CenterCropConfig
from detseg.tasks import ClassificationTask
from tests.colours import COLOURS, write_colours

NUMPY = {"numpy", "PIL", "jsonargparse"}
DRAWING = {"matplotlib", "jinja2"}
TORCH = {"torch", "torchvision", "safetensors"}
TRAINING = {"lightning", "pytorch_lightning", "torchmetrics", "scipy", "skimage", "sklearn", "albumentations"}

# Statements, and the libraries that neither they nor those before them load.
STEPS = [
    ("import detseg; detseg.__version__; dir(detseg)", NUMPY | DRAWING | TORCH | TRAINING),
    ("from detseg.cli import main; run('train', '--help')", NUMPY | DRAWING | TORCH | TRAINING),
    ("run('check', '-h')", NUMPY | DRAWING | TORCH | TRAINING),
    ("from detseg.data import DetectionAnnotations", {"PIL"} | DRAWING | TORCH | TRAINING),
    ("import detseg.analysis.charts, detseg.check.page", DRAWING | TORCH | TRAINING),
    ("run('check', 'colours', '--decode')", DRAWING | TORCH | TRAINING),
    ("run('convert-data', 'colours', '--to', 'YOLO', '--out', 'yolo')", DRAWING | TORCH | TRAINING),
    ("import detseg.cli.merge", DRAWING | TORCH | TRAINING),
    ("run('predict', 'colours/val', '--checkpoint', 'model.ckpt')", DRAWING | TRAINING),
    ("import detseg.cli.draw, detseg.cli.embed, detseg.cli.heatmap, detseg.cli.models", DRAWING | TRAINING),
]
PROCESS = f"""
import json, sys
from contextlib import suppress

def run(*arguments):
    with suppress(SystemExit):
        main(arguments)

for statement in {[statement for statement, _ in STEPS]}:
    exec(statement)
    print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})), file=sys.stderr)
"""


def test_no_library_is_loaded_before_it_is_needed(tmp_path: Path) -> None:
    write_colours(tmp_path / "colours")
    model = Classifier(MobileNetV1(alpha=0.125), 3)
    model.class_names, model.preprocessing = tuple(COLOURS), CenterCropConfig(32)
    checkpoint.save(ClassificationTask(model), tmp_path / "model.ckpt")
    result = subprocess.run([sys.executable, "-c", PROCESS], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    loaded = [set(json.loads(line)) for line in result.stderr.splitlines() if line.startswith("[")]
    assert [forbidden & modules for (_, forbidden), modules in zip(STEPS, loaded, strict=True)] == [set()] * len(STEPS)
    for part in ("--trainer.KEY", "--decode", "clean"):
        assert part in result.stdout
    assert (tmp_path / "yolo").exists()
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("name", detseg.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(detseg, name) is not None
    assert name in dir(detseg)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="FasterRCN"):
        _ = detseg.FasterRCN  # type: ignore[attr-defined]
