"""The options for test-time augmentation of segmenters."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from detseg.models.tta import TTAConfig


def add_tta_options(parser: ArgumentParser) -> None:
    """Add the options that ``tta_config`` reads."""
    parser.add_argument("--crop_size", type=int | None, help="Segmentation: side of overlapping crops, in pixels.")
    parser.add_argument(
        "--scales", type=list[float], default=[1.0], help="Segmentation: image scales, as [0.75, 1, 1.25]."
    )
    parser.add_argument("--flip", type=bool, default=False, help="Segmentation: add the mirror image.")


def tta_config(options: Namespace) -> TTAConfig:
    """Read the options that ``add_tta_options`` added. Raises ConfigError for values that make no sense."""
    return TTAConfig(options.crop_size, options.scales, options.flip)
