"""The options for ensembles, test-time augmentation and tiles, which `predict` and `evaluate` share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from detseg.errors import ConfigError
from detseg.inference.loading import load_model
from detseg.inference.predictor import Predictor
from detseg.inference.tiling import Tiling
from detseg.inference.views import build_predictor
from detseg.models import Segmenter
from detseg.models.model import Model
from detseg.models.tta import TTAConfig
from detseg.weights.model_card import CARD

CHECKPOINT = "Written by `detseg train`, `convert` or `publish`; several form an ensemble."


def add_view_options(parser: ArgumentParser, auto: bool = False) -> None:
    """Add the options that the functions of this module read; with ``auto``, the size of tiles can be chosen."""
    add = parser.add_argument
    add("--scales", type=list[float], default=[1.0], help="Predict at several scales, such as [0.75, 1, 1.25].")
    add("--flip", type=bool, default=False, help="Predict on the mirror image as well.")
    add("--crop_size", type=int | None, help="Segmentation: side of overlapping crops, in pixels.")
    size = "auto: chosen from the sizes of the labelled objects." if auto else "For large images and small objects."
    add("--tile", type=int | Literal["auto"] | None if auto else int | None, help=f"Side of tiles, in pixels. {size}")
    add(
        "--overlap",
        type=float | None,
        help=f"Overlap of tiles, as a fraction of their side; default: {Tiling.overlap}.",
    )


def split_checkpoints(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the further files that follow ``--checkpoint FILE`` from the arguments: the members of an ensemble."""
    remaining: list[str] = []
    members: list[str] = []
    for argument in arguments:
        last = remaining[-1] if remaining else ""
        follows = last.startswith("--checkpoint=") or remaining[-2:-1] == ["--checkpoint"]
        (members if follows and is_checkpoint(argument) else remaining).append(argument)
    return remaining, members


def is_checkpoint(name: str) -> bool:
    """Tell a checkpoint or a published folder from images."""
    return name.endswith(".ckpt") or (Path(name) / CARD).exists()


def tile_overlap(options: Namespace) -> float:
    """Return the overlap of the options, or its default."""
    return Tiling.overlap if options.overlap is None else float(options.overlap)


def make_predictor(model: Model, members: Sequence[str], options: Namespace) -> Predictor:
    """Return the predictor of a model, on its device, with the further members of its ensemble.

    Raises ConfigError, naming the option, for values that the model does not support.
    """
    tta = TTAConfig(options.crop_size, options.scales, options.flip)
    if tta.crop_size and not isinstance(model, Segmenter):
        raise ConfigError(f"--crop_size is for segmentation; use --tile for {options.checkpoint}")
    if options.tile is None and options.overlap is not None:
        raise ConfigError(f"--overlap {options.overlap:g} is the overlap of tiles: add --tile SIDE, or leave it out")
    tiling = None if options.tile is None else Tiling(options.tile, tile_overlap(options))
    device = next(model.parameters()).device
    others = [load_model(name).to(device) for name in members]
    return build_predictor([model, *others], tta, tiling)
