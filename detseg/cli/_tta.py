"""The options for how often an image is looked at when it is segmented."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from detseg.inference.tta import TTAConfig


def add_views(parser: ArgumentParser) -> None:
    """Add the options that ``views`` reads."""
    parser.add_argument("--window", type=int | None, help="Segmentation: pixels of the side of overlapping parts.")
    parser.add_argument("--scales", type=list[float], default=[1.0], help="Segmentation: such as [0.75, 1, 1.25].")
    parser.add_argument("--flip", type=bool, default=False, help="Segmentation: whether to look at mirror images too.")


def views(options: Namespace) -> TTAConfig:
    """What the options say. Raises ConfigError for values that make no sense."""
    return TTAConfig(options.window, options.scales, options.flip)
