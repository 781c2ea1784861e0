"""OpenVINO's format, converted from ONNX."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino

from detseg.export import onnx
from detseg.export.graph import Frame
from detseg.models.model import Model
from detseg.runtime.engines import METADATA


def write(model: Model, frame: Frame, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a model as an XML file, with its weights in a .bin file beside it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        onnx.write(model, frame, file, {**metadata, "half": False})
        convert(file, path, metadata)


def convert(file: Path, path: Path, metadata: Mapping[str, Any]) -> None:
    """Convert an ONNX ``file``."""
    converted = openvino.convert_model(file)
    converted.set_rt_info(json.dumps(metadata), [METADATA])
    openvino.save_model(converted, path, compress_to_fp16=metadata["half"])
