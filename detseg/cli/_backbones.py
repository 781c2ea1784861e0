"""What the commands that look into a backbone have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace
from PIL import Image

from detseg.cli._configs import find_configs, nearest
from detseg.cli._console import check_writable
from detseg.cli._parser import instantiate, make_parser, parse
from detseg.cli.predict import find_device
from detseg.errors import ConfigError
from detseg.modules.backbones import ConvNet


def backbone_parser(command: str, usage: str, out: Path) -> ArgumentParser:
    """A parser with the options for a backbone; ``out`` is the usual file for the picture."""
    parser = make_parser(command, usage)
    parser.add_subclass_arguments(ConvNet, "backbone", required=True, help="Such as MobileNetV2, with its weights.")
    parser.add_argument("--size", type=int, default=224, help="Pixels of the shorter side of what the network sees.")
    parser.add_argument("--seed", type=int, default=0, help="Of everything that is drawn at random.")
    parser.add_argument("--device", type=str | None, help="Such as cpu or cuda; by default a GPU if there is one.")
    parser.add_argument("--out", type=Path, default=out, help="File for the picture.")
    return parser


def parse_backbone(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """The options, none of them built yet. Raises ConfigError for what is wrong with them."""
    if not any(argument.split("=")[0] == "--backbone" for argument in arguments) and "--help" not in arguments:
        raise ConfigError("--backbone must be set, such as MobileNetV2")
    return parse(parser, find_configs(arguments))


def build(parser: ArgumentParser, options: Namespace) -> Namespace:
    """The options with the objects that they describe, the backbone ready to be looked into.

    Raises ConfigError if it is to have no weights.
    """
    if options.backbone.init_args.get("weights") is None:
        raise ConfigError(
            "backbone.weights must be set, to a file or a name such as IMAGENET1K_V1: at random, nothing is learnt"
        )
    device = find_device(options.device)
    built: Namespace = instantiate(parser, options)
    built.backbone = prepare(built.backbone, device)
    return built


def prepare(backbone: ConvNet, device: torch.device) -> ConvNet:
    """Freeze a backbone for inspection, channels last on ``device``."""
    backbone.eval().requires_grad_(False)
    return backbone.to(memory_format=torch.channels_last).to(device)


def find_block(option: str, name: str, backbone: ConvNet) -> str:
    """The block called ``name``, or the last one of the group that is called so.

    Raises ConfigError, with the nearest that there are, if there is none.
    """
    found = [block for block in backbone.block_names if block == name or block.startswith(f"{name}.")]
    if not found:
        raise ConfigError(f"--{option} {name}: {backbone.name} has no such block{nearest(name, backbone.block_names)}")
    return found[-1]


def check_picture(out: Path) -> None:
    """Raise ConfigError if no picture can be written to this file; its folder is made."""
    if out.suffix.lower() not in Image.registered_extensions():
        raise ConfigError(f"--out {out}: must end in .png, or as another kind of picture does")
    check_writable("--out", out)
