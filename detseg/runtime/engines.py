"""Libraries that run exported models, behind one interface: arrays by name in, arrays by name out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.errors import CheckpointError, DetsegError

METADATA = "detseg"  # key of the metadata in a file
FORMAT = 1  # of the metadata
Arrays = Mapping[str, NDArray[Any]]


class Engine:
    """An exported model. ``metadata`` are plain values; ``threads`` is the number of CPU threads, by default all."""

    metadata: dict[str, Any]

    def __init__(self, path: Path, threads: int | None = None) -> None:
        raise NotImplementedError

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Compute the outputs of a batch."""
        raise NotImplementedError


class OnnxEngine(Engine):
    """ONNX Runtime."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        self.session = onnxruntime.InferenceSession(path, options, providers=onnxruntime.get_available_providers())
        self.metadata = json.loads(self.session.get_modelmeta().custom_metadata_map[METADATA])
        self.names = [output.name for output in self.session.get_outputs()]

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        return dict(zip(self.names, self.session.run(self.names, dict(inputs)), strict=True))


class OpenVinoEngine(Engine):
    """OpenVINO on a CPU, in single precision."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", **({"INFERENCE_NUM_THREADS": threads} if threads else {})}
        model = openvino.Core().read_model(path)
        self.metadata = json.loads(model.get_rt_info([METADATA]).astype(str))
        self.model = openvino.compile_model(model, "CPU", settings)
        self.names = [output.get_any_name() for output in self.model.outputs]

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        outputs = self.model(dict(inputs))
        return {name: np.array(outputs[name]) for name in self.names}


ENGINES: dict[str, tuple[type[Engine], str]] = {  # by the suffix of the file, with the package that it needs
    ".onnx": (OnnxEngine, "onnxruntime"),
    ".xml": (OpenVinoEngine, "openvino"),
}


def open_engine(path: str | Path, threads: int | None = None) -> Engine:
    """Open a file that ``detseg export`` wrote.

    Raises CheckpointError if it is missing, damaged or of another program, DetsegError without the library to run it.
    """
    path = Path(path)
    if path.suffix == ".pt2":
        raise CheckpointError(
            f"{path}: not opened here, since loading a .pt2 file can run code in it; of a file that you trust, "
            "`torch.export.load` gives the program"
        )
    if path.suffix not in ENGINES:
        raise CheckpointError(f"{path}: not an exported model; the suffix must be {', '.join(ENGINES)}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    engine, package = ENGINES[path.suffix]
    try:
        opened = engine(path, threads)
    except ImportError as error:
        raise DetsegError(f"{path}: needs the package {package}: pip install {package}") from error
    except Exception as error:  # the file may hold anything
        raise CheckpointError(f"{path}: damaged, or not written by `detseg export`: {error}") from error
    if opened.metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: written by another version of detseg (format {opened.metadata.get('format')})")
    return opened
