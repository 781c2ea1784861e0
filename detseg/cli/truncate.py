"""`detseg truncate`: compress the head of a trained detector by a truncated SVD."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from detseg import checkpoint, modules
from detseg.cli._parser import make_parser, parse
from detseg.errors import CheckpointError, ConfigError
from detseg.folders import check_writable
from detseg.modules import ClassifierHead, TwoMLPHead

log = logging.getLogger(__name__)


def run(arguments: Sequence[str]) -> None:
    """Write a copy of a checkpoint with fc6 and fc7 of its head compressed."""
    parser = make_parser(
        "truncate",
        "SOURCE TARGET [--fc6 1024] [--fc7 256]",
        "Compress the head of a trained detector by a truncated SVD (Fast R-CNN, section 3.1).",
    )
    parser.add_argument("source", type=Path, help="Checkpoint of a detector with two fully connected layers.")
    parser.add_argument("target", type=Path, help="File to write.")
    parser.add_argument("--fc6", type=int, default=1024, help="Singular values to keep of fc6.")
    parser.add_argument("--fc7", type=int, default=256, help="Singular values to keep of fc7.")
    options = parse(parser, arguments)
    check_writable("target", options.target)
    task = checkpoint.load(options.source)
    head = getattr(getattr(task.model, "roi_heads", None), "box_head", None)
    if not isinstance(head, (TwoMLPHead, ClassifierHead)):
        held = type(task.model).__name__ + (f" with a {type(head).__name__}" if head else "")
        raise CheckpointError(f"{options.source}: holds {held}; there are no fc6 and fc7 to compress")
    before = sum(parameter.numel() for parameter in head.parameters())
    try:
        modules.svd_compress(head, options.fc6, options.fc7)
    except ValueError as error:
        raise ConfigError(f"{options.source}: {error}") from error
    after = sum(parameter.numel() for parameter in head.parameters())
    if after >= before:
        raise ConfigError(
            f"{options.source}: with --fc6 {options.fc6} --fc7 {options.fc7} the head has {after / 1e6:.2f} million "
            f"parameters instead of {before / 1e6:.2f}: choose fewer singular values"
        )
    task.metric_values = {}  # of the uncompressed head
    options.target.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(task, options.target)
    log.info("%s: the head has %.2f million parameters instead of %.2f", options.target, after / 1e6, before / 1e6)
