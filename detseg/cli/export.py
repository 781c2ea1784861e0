"""`detseg export`: a model for ONNX Runtime, OpenVINO or PyTorch, proved equal to its checkpoint."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from detseg import checkpoint
from detseg.cli._console import import_module
from detseg.cli._parser import make_parser, parse
from detseg.configurable import from_config
from detseg.errors import ConfigError
from detseg.export.delivery import PROOF_IMAGES, SUFFIXES, export
from detseg.export.graph import Frame, check_frame, default_frame
from detseg.export.proof_images import ProofImage
from detseg.folders import check_writable
from detseg.inference.images import find_images, open_image
from detseg.metrics import annotation_targets
from detseg.models.model import Model
from detseg.runtime.predictor import to_frame_size
from detseg.tasks import DetectionTask

log = logging.getLogger(__name__)

USAGE = """CHECKPOINT [--format onnx|openvino|torch] [--size 800x1344] [--images FOLDER]
    [--half true] [--out FILE]"""
IMAGES = f"Images for the proof; default: the validation images, and drawn ones up to {PROOF_IMAGES}."


def run(arguments: Sequence[str]) -> None:
    """Write the model of a checkpoint in the format of another library, and its proof."""
    parser = make_parser(
        "export",
        "CHECKPOINT [--format onnx|openvino|torch] [--size 800x1344] [--images FOLDER] [--half true]\n    [--out FILE]",
    )
    parser.add_argument("checkpoint", type=str, help="Written by `detseg train`, `convert` or `publish`.")
    parser.add_argument("--format", type=Literal[tuple(SUFFIXES)], default="onnx", help="Of the file.")
    parser.add_argument(
        "--size", type=str | None, help="Height and width of the padded images; default: those of wide images."
    )
    parser.add_argument("--images", type=str | None, help=IMAGES)
    parser.add_argument("--half", type=bool, default=False, help="Round the weights to half precision.")
    parser.add_argument("--out", type=Path | None, help="File to write; default: beside the checkpoint.")
    parser.add_argument("--module", type=str | None, help="A module with your own classes that the checkpoint needs.")
    options = parse(parser, arguments)
    if options.module:
        import_module(options.module)
    frame = parse_size(options.size) if options.size else None
    task = checkpoint.load(options.checkpoint)
    model: Any = task.model
    suffix = SUFFIXES[options.format]
    source = Path(options.checkpoint)
    out = options.out or (source / f"model{suffix}" if source.is_dir() else source.with_suffix(suffix))
    if out.suffix != suffix:
        raise ConfigError(f"--out {out}: the name of such a file ends with {suffix}")
    check_writable("--out", out)
    frame = check_frame(model, frame or default_frame(model))
    images = _images(find_images(options.images), model, frame) if options.images else _validation_images(task, frame)
    export(model, out, options.format, frame, images, half=options.half)


def parse_size(text: str) -> Frame:
    """Parse ``HEIGHTxWIDTH``. Raises ConfigError for anything else."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise ConfigError(f"--size {text}: must be a height and a width, such as 800x1344")
    return int(match[1]), int(match[2])


def _images(paths: Sequence[Path], model: Model, frame: Frame) -> Iterator[ProofImage]:
    """Read images as the runtime does; parts of those beyond the frame are cut off."""
    for path in paths:
        pixels = to_frame_size(open_image(path).pixels, model.preprocessing, frame)
        yield ProofImage(str(path), pixels[: frame[0], : frame[1]])


def _validation_images(task: Any, frame: Frame) -> Iterator[ProofImage]:
    """Read the validation images of the training with their objects; none if the data is not there."""
    if not task.data_recipe:
        return
    try:
        data = from_config(task.data_recipe)
        if isinstance(task, DetectionTask) and task.model.needs_masks and data.masks == "none":
            data.masks = "all"
        data.use_classes(task.class_names)
        annotations = data.val_annotations
    except Exception as error:  # the data may have moved, and the file may hold anything
        log.info("no validation images for the proof, but drawn ones: %s", error)
        return
    paths = [annotations.path(row) for row in range(len(annotations))]
    for row, image in enumerate(_images(paths, task.model, frame)):
        targets = annotation_targets(annotations, [row]) if isinstance(task, DetectionTask) else [None]
        yield image._replace(target=targets[0])
