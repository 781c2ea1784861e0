"""`detseg export`: a model for ONNX Runtime, OpenVINO or PyTorch, proved equal to its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from detseg import checkpoint
from detseg.cli._console import import_module
from detseg.cli._exporting import parse_frame, read_images, validation_images
from detseg.cli._parser import make_parser, parse
from detseg.errors import ConfigError
from detseg.export.delivery import MAX_AP_LOSS, PROOF_IMAGES, SUFFIXES, export
from detseg.folders import check_writable
from detseg.inference.sources import find_images

CALIBRATION_IMAGES = 100  # at most
IMAGES = f"Images for the proof; default: the validation images, and drawn ones up to {PROOF_IMAGES}."


def run(arguments: Sequence[str]) -> None:
    """Write the model of a checkpoint in the format of another library, and its proof."""
    parser = make_parser(
        "export",
        "CHECKPOINT [--format onnx|openvino|torch] [--size 800x1344] [--images FOLDER] [--half true]\n"
        "    [--int8 FOLDER [--max_ap_loss 0.5]] [--out FILE]",
    )
    parser.add_argument("checkpoint", type=str, help="Written by `detseg train`, `convert` or `publish`.")
    parser.add_argument("--format", type=Literal[tuple(SUFFIXES)], default="onnx", help="Of the file.")
    parser.add_argument(
        "--size", type=str | None, help="Height and width of the padded images; default: those of wide images."
    )
    parser.add_argument("--images", type=str | None, help=IMAGES)
    parser.add_argument("--half", type=bool, default=False, help="Round the weights to half precision.")
    parser.add_argument("--int8", type=str | None, help="Images for the calibration of a detector in 8 bits.")
    parser.add_argument(
        "--max_ap_loss", type=float, default=MAX_AP_LOSS, help="Points of AP that 8 bits may cost on validation images."
    )
    parser.add_argument("--out", type=Path | None, help="File to write; default: beside the checkpoint.")
    parser.add_argument("--module", type=str | None, help="A module with your own classes that the checkpoint needs.")
    options = parse(parser, arguments)
    if options.module:
        import_module(options.module)
    if options.int8 and (options.format != "onnx" or options.half):
        raise ConfigError("--int8: only for --format onnx, without --half")
    task = checkpoint.load(options.checkpoint)
    model: Any = task.model
    suffix = SUFFIXES[options.format]
    source = Path(options.checkpoint)
    out = options.out or (source / f"model{suffix}" if source.is_dir() else source.with_suffix(suffix))
    if out.suffix != suffix:
        raise ConfigError(f"--out {out}: the name of such a file ends with {suffix}")
    check_writable("--out", out)
    frame = parse_frame(options.size, model)
    calibration = (
        list(read_images(find_images(options.int8)[:CALIBRATION_IMAGES], model, frame)) if options.int8 else []
    )
    images = (
        read_images(find_images(options.images), model, frame) if options.images else validation_images(task, frame)
    )
    export(model, out, options.format, frame, images, half=options.half)
    if options.int8:
        from detseg.export.int8 import quantize  # needs ONNX Runtime

        quantize(model, out, frame, calibration, list(validation_images(task, frame)), options.max_ap_loss)
