"""Export a model, prove that the file computes the same, and deliver it with its report."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import platform
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torchvision

import detseg
from detseg.constants import MAX_PROPOSALS
from detseg.errors import ConfigError, DetsegError, ExportError
from detseg.export.graph import Frame, check_frame, default_frame, round_weights
from detseg.export.proof import prove
from detseg.export.proof_images import ProofImage, drawn_images, special_images
from detseg.models import Detector, Segmenter
from detseg.models.model import Model
from detseg.runtime.engines import FORMAT, Engine, open_engine

log = logging.getLogger(__name__)

PROOF_IMAGES = 200
MAX_AP_LOSS = 0.5  # points, of 8 bits
REPORT = ".proof.json"  # added to the name of the file
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
"""Of the file in each format; the module of this name writes it."""


def export(
    model: Model,
    path: Path,
    format: str = "onnx",
    frame: Frame | None = None,
    images: Iterable[ProofImage] = (),
    count: int = PROOF_IMAGES,
    half: bool = False,
) -> dict[str, Any]:
    """Write a model to ``path`` in a format of ``SUFFIXES``, for images in ``frame``, by default that of wide images.

    The file is then compared with the model on ``count`` images: a few special ones, then ``images``, then drawn ones
    where these do not suffice. A report of it is written beside and returned. With ``half``, the weights are rounded to
    half precision first; the file stores them so, and computes in single precision.

    Raises ConfigError for a model, a frame or a format that does not go, DetsegError without the libraries of the
    format, ExportError, after deleting the file, for one that computes anything else.
    """
    frame = check_frame(model, frame or default_frame(model))
    if half and format == "torch":
        raise ConfigError("half: only files of the formats onnx and openvino can hold half precision")
    model = round_weights(model) if half else model
    metadata = {**describe(model, frame), "half": half}
    try:
        importlib.import_module(f"detseg.export.{format}").write(model, frame, path, metadata)
    except ImportError as error:
        raise DetsegError(f"format {format}: needs other packages: {error}; pip install 'detseg[export]'") from error
    return certify(model, path, frame, images, count)


def certify(model: Model, path: Path, frame: Frame, images: Iterable[ProofImage], count: int) -> dict[str, Any]:
    """Prove a file and write the report beside it. Raises ExportError, after deleting it, for a file that differs."""
    images = chain(special_images(frame), images, drawn_images(frame))
    if path.suffix == SUFFIXES["torch"]:
        from detseg.export.torch import ProgramEngine

        engine: Engine = ProgramEngine(path)
    else:
        engine = open_engine(path)
    proof = prove(model, engine, frame, images, count)
    if proof.failures:
        for file in _files(path):
            file.unlink(missing_ok=True)
        raise ExportError(
            f"{path}: deleted, since it does not compute what the checkpoint does: {'; '.join(proof.failures[:3])}"
        )
    report = {"file": path.name, "sha256": sha256(path), **describe(model, frame), **proof.report()}
    report_path(path).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    log.info("%s: equal to its checkpoint on %d images: %s", path, proof.images, proof.summary(model))
    return report


def report_path(path: Path) -> Path:
    """Return the name of the report beside an exported file."""
    return path.with_name(path.name + REPORT)


def describe(model: Model, frame: Frame) -> dict[str, Any]:
    """Describe a model for its users in plain values: classes, resizing, thresholds, versions."""
    heads: Any = getattr(model, "roi_heads", model)
    postprocessor = getattr(heads, "postprocessor", None)
    names = model.class_names or tuple(f"class {label}" for label in range(model.num_classes))
    task = "segmentation" if isinstance(model, Segmenter) else "classification"
    return {
        "format": FORMAT,
        "task": "detection" if isinstance(model, Detector) else task,
        "model": type(model).__name__,
        "frame": list(frame),
        **model.metadata(),
        "classes": list(names),
        "num_proposals": MAX_PROPOSALS if isinstance(model, Detector) and model.needs_proposals else 0,
        "thresholds": vars_of(postprocessor) if postprocessor else {},
        "versions": {
            "detseg": detseg.__version__,
            "torch": str(torch.__version__),
            "torchvision": torchvision.__version__,
            "python": platform.python_version(),
        },
        "weights_sha256": _hash_weights(model),
    }


def vars_of(postprocessor: Any) -> dict[str, float]:
    """Return the numbers of a postprocessor by name."""
    return {name: value for name, value in vars(postprocessor).items() if isinstance(value, (int, float))}


def sha256(path: Path) -> str:
    """Hash a file, of OpenVINO that of the weights."""
    with _files(path)[-1].open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(path: Path) -> list[Path]:
    """List the files of an exported model."""
    return [path, path.with_suffix(".bin")] if path.suffix == SUFFIXES["openvino"] else [path]


def _hash_weights(model: Model) -> str:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
