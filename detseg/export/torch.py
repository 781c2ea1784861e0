"""Programs of ``torch.export`` in .pt2 files, for PyTorch's own runtimes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from detseg import kernels
from detseg.export.graph import Frame, dynamic_shapes, example_inputs, make_graph
from detseg.models.model import Model
from detseg.runtime.engines import METADATA, Arrays, Engine

PROGRAM_METADATA = f"{METADATA}.json"  # the file in the archive that holds them


def write(model: Model, frame: Frame, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a model as a program; it calls ``detseg::nms``, so that whoever loads it imports ``detseg.ops.boxes``."""
    inputs = example_inputs(model, frame)
    shapes = dynamic_shapes(inputs)
    with kernels.use(fast=False), torch.no_grad():
        program = torch.export.export(make_graph(model, nodes=False), (), inputs, dynamic_shapes=shapes, strict=False)
        torch.export.save(program, path, extra_files={PROGRAM_METADATA: json.dumps(metadata)})


class ProgramEngine(Engine):
    """PyTorch, on a CPU. For a file that was just written: loading one can run code in it."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        if threads:
            torch.set_num_threads(threads)
        files = {PROGRAM_METADATA: ""}
        self.program = torch.export.load(path, extra_files=files).module()
        self.metadata = json.loads(files[PROGRAM_METADATA])

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        with torch.inference_mode():
            outputs = self.program(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}
