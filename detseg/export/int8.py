"""Static quantization of exported detectors to 8 bits, with the average precision that it costs."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from detseg.errors import ConfigError, ExportError
from detseg.export.ap import ApComparison
from detseg.export.delivery import MAX_AP_LOSS, report_path, sha256
from detseg.export.graph import Frame
from detseg.export.matching import Arrays
from detseg.export.proof import Reference
from detseg.export.proof_images import ProofImage
from detseg.models import Detector
from detseg.models.model import Model
from detseg.runtime.engines import open_engine

log = logging.getLogger(__name__)

LAYERS = ["Conv"]  # fully connected layers choose among nearly equal scores, and take little of the time
BATCH = 4


class _Calibration(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Inputs of single images, whose activations set the ranges of the 8-bit numbers."""

    def __init__(self, reference: Reference, images: Sequence[ProofImage], frame: Frame) -> None:
        self.inputs: Iterator[Arrays] = (reference.inputs([image], frame) for image in images)

    def get_next(self) -> Arrays | None:
        return next(self.inputs, None)


def quantize(
    model: Model,
    path: Path,
    frame: Frame,
    calibration: Sequence[ProofImage],
    images: Sequence[ProofImage],
    max_ap_loss: float = MAX_AP_LOSS,
) -> dict[str, Any]:
    """Quantize the convolutions of an exported ONNX file in place, and add the loss of AP to the report beside it.

    ``calibration`` are images like those of the use, some tens; ``images`` those with annotated objects that AP is
    measured on. Returns the report.

    Raises ConfigError for a model that is no detector and without images, ExportError, after deleting the file, if AP
    falls by more than ``max_ap_loss`` points.
    """
    if not isinstance(model, Detector):
        raise ConfigError("int8: only detectors can be quantized")
    images = [image for image in images if image.target is not None]
    if not calibration or not images:
        raise ConfigError("int8: needs images for the calibration, and validation images with objects to measure AP")
    reference = Reference(model)
    quantize_file(reference, path, frame, calibration)
    values = _measure(reference, path, frame, images)
    losses = {name: 100 * (before - after) for name, (before, after) in values.items()}
    lost = ", ".join(f"{name} by {loss:.2f}" for name, loss in losses.items())
    report_file = report_path(path)
    if max(loss for name, loss in losses.items() if name.endswith("AP")) > max_ap_loss:
        path.unlink()
        report_file.unlink()
        raise ExportError(f"{path}: deleted, since 8 bits lower {lost} points, and the limit is {max_ap_loss:g}")
    report: dict[str, Any] = json.loads(report_file.read_text(encoding="utf-8"))
    report |= {"sha256": sha256(path), "int8": {"images": len(images), "ap": values, "max_ap_loss": max_ap_loss}}
    report_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    log.info("%s: 8 bits lower %s points on %d images", path, lost, len(images))
    return report


def quantize_file(reference: Reference, path: Path, frame: Frame, calibration: Sequence[ProofImage]) -> None:
    """Quantize the convolutions of an exported ONNX file in place."""
    with tempfile.TemporaryDirectory() as folder:
        fused = Path(folder) / "fused.onnx"  # batch norm becomes a part of the convolutions before it
        quant_pre_process(path, fused, skip_symbolic_shape=True)
        quantization.quantize_static(
            fused,
            path,
            _Calibration(reference, calibration, frame),
            op_types_to_quantize=LAYERS,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,  # sums of 8-bit products overflow on processors without VNNI
        )


def _measure(reference: Reference, path: Path, frame: Frame, images: Sequence[ProofImage]) -> dict[str, list[float]]:
    engine, ap = open_engine(path), ApComparison()
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        inputs = reference.inputs(batch, frame)
        ap.update(batch, reference(inputs), engine(inputs))
    return ap.compute()
