"""Programs of ``torch.export`` in .pt2 files, for PyTorch's own runtimes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detseg import kernels
from detseg.export.graph import Frame, dynamic_shapes, example_inputs, make_graph
from detseg.models.model import Model
from detseg.runtime.engines import PROGRAM_METADATA


def write(model: Model, frame: Frame, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a model as a program; it calls ``detseg::nms``, so that whoever loads it imports ``detseg.ops.boxes``."""
    inputs = example_inputs(model, frame)
    shapes = dynamic_shapes(inputs)
    with kernels.use(fast=False), torch.no_grad():
        program = torch.export.export(make_graph(model, nodes=False), (), inputs, dynamic_shapes=shapes, strict=False)
        torch.export.save(program, path, extra_files={PROGRAM_METADATA: json.dumps(metadata)})
