"""The light runtime: results of ``detseg.inference.Predictor``, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from detseg import inference, runtime
from detseg.data.modules.shapes_generator import draw
from detseg.errors import CheckpointError, ConfigError, DataError
from detseg.preprocessing import ResizeConfig
from detseg.resizing import resize
from detseg.runtime.predictor import to_frame_size
from tests.export.models import FRAME

SIZES = [(96, 128), (48, 64), (200, 266), (60, 110)]  # all of them are padded to the frame


def pictures(sizes: list[tuple[int, int]] = SIZES) -> list[Any]:
    return [resize(draw([3, number])[0], *size) for number, size in enumerate(sizes)]


def test_detections_are_those_of_the_predictor(exported: Any) -> None:
    model, path, _ = exported("mask_rcnn")
    sources = pictures()
    expected = inference.Predictor(model)(sources, threshold=0.2)
    results = runtime.Predictor(path)(sources, batch_size=3, threshold=0.2)
    assert sum(map(len, results)) > 20
    for ours, theirs in zip(results, expected, strict=True):
        assert ours.names == theirs.names
        assert ours.image_size == theirs.image_size
        assert ours.scores.min() >= 0.2
        assert_allclose(ours.boxes, theirs.boxes, atol=1e-2)
        assert_allclose(ours.scores, theirs.scores, atol=1e-4)
        assert (ours.masks == theirs.masks).mean() > 0.9999
        assert ours.plot().size == ours.image_size[::-1]


def test_tiles_are_those_of_the_predictor(exported: Any) -> None:
    model, path, _ = exported("fcn")
    (source,) = pictures([(160, 210)])  # larger than the frame
    (expected,) = inference.MultiViewPredictor([model], tiling=inference.Tiling(70, 0.3))(source)
    (result,) = runtime.Predictor(path, tiling=inference.Tiling(70, 0.3))(source, batch_size=4)
    assert result.labels.shape == (160, 210)
    assert (result.labels == expected.labels).mean() > 0.999
    np.testing.assert_array_equal(result.image, source)


def test_labels_are_those_of_the_predictor(exported: Any) -> None:
    model, path, _ = exported("fcn")
    (source,) = pictures([(90, 70)])
    (expected,) = inference.Predictor(model)(source)
    (result,) = runtime.Predictor(path)(source)
    assert result.labels.shape == (90, 70)
    assert (result.labels == expected.labels).mean() > 0.999
    assert len(result.class_fractions) > 1


def test_torch_is_not_needed(exported: Any, tmp_path: Path) -> None:
    """A process in which torch, lightning and torchvision cannot be imported writes the same JSON."""
    model, path, _ = exported("mask_rcnn")
    file = tmp_path / "a.png"
    Image.fromarray(pictures()[0]).save(file)
    code = (
        "import sys, json\n"
        "for name in ('torch', 'lightning', 'torchvision', 'albumentations'): sys.modules[name] = None\n"
        "from detseg.runtime import Predictor\n"
        f"(result,) = Predictor({str(path)!r})({str(file)!r}, threshold=0.2)\n"
        "result.plot()\n"
        "print(json.dumps(result.to_json()))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    (expected,) = inference.Predictor(model)(file, threshold=0.2)
    assert len(expected) > 10
    ours, theirs = json.loads(output), expected.to_json()
    for name, decimals in {"boxes": 2, "scores": 4}.items():  # rounding may end on either side
        assert_allclose(ours.pop(name), theirs.pop(name), atol=1.001 * 10**-decimals)
    assert ours == theirs


def test_the_small_distribution_has_the_files_that_the_runtime_imports() -> None:
    code = (
        "import sys\n"
        "import detseg.runtime, detseg.inference.results\n"
        "modules = [module for name, module in sys.modules.items() if name.partition('.')[0] == 'detseg']\n"
        "print(*(module.__file__ for module in modules), sep=chr(10))"
    )
    root = Path(__file__).parents[2]
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    imported = {str(Path(file).relative_to(root)) for file in output.splitlines()}
    settings = tomllib.loads((root / "packaging" / "runtime" / "pyproject.toml").read_text())
    packed = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"].values()
    folder = {file for file in imported if file.startswith("detseg/runtime/")}
    assert {file for file in packed if file.endswith(".py")} == imported - folder
    assert "detseg/runtime" in packed
    for file in imported - folder:
        stub = f"{file}i"
        assert (stub in packed) == (root / stub).exists()


def test_an_upright_image_is_made_smaller_than_the_frame() -> None:
    config = ResizeConfig(96, 128)
    assert to_frame_size(np.zeros((300, 200, 3), np.uint8), config, FRAME).shape == (96, 64, 3)
    assert to_frame_size(np.zeros((200, 300, 3), np.uint8), config, FRAME).shape == (85, 128, 3)
    assert to_frame_size(np.zeros((50, 60, 3), np.uint8), None, FRAME).shape == (50, 60, 3)


def test_an_image_that_is_made_smaller_is_named_once(exported: Any, caplog: pytest.LogCaptureFixture) -> None:
    predictor = runtime.Predictor(exported("mask_rcnn")[1])
    caplog.clear()
    predictor(pictures())
    assert not caplog.messages
    predictor(pictures([(128, 96), (160, 120), (200, 100)]))
    (message,) = caplog.messages
    assert message.startswith("an image: made smaller, since its 128x96 pixels do not fit into the model's 96x128;")
    assert message.endswith("--size 128x96")


def test_an_image_beyond_the_frame_is_named(exported: Any, tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    Image.new("RGB", (300, 100)).save(file)
    with pytest.raises(
        DataError, match=r"large\.png: 100x300 pixels do not fit .* 96x128; export it with --size 128x320"
    ):
        runtime.Predictor(exported("fcn")[1])(file)


def test_other_files_are_refused(tmp_path: Path) -> None:
    for name, text in {"a.onnx": "damaged", "b.ckpt": "not an exported model"}.items():
        (tmp_path / name).write_text("nothing")
        with pytest.raises(CheckpointError, match=text):
            runtime.Predictor(tmp_path / name)
    with pytest.raises(CheckpointError, match="no such file"):
        runtime.Predictor(tmp_path / "c.onnx")


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"threshold": 1.5}])
def test_values_are_checked(settings: dict[str, Any], exported: Any) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        runtime.Predictor(exported("fcn")[1])(pictures(), **settings)
