"""Options of the commands that analyse a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace
from PIL import Image

from detseg.cli._configs import find_configs, nearest
from detseg.cli._devices import find_device
from detseg.cli._parser import instantiate, make_parser, parse
from detseg.errors import ConfigError
from detseg.folders import check_writable
from detseg.modules.backbones import Backbone, ConvNet


def backbone_parser(command: str, usage: str, out: Path, base: type[Backbone] = ConvNet) -> ArgumentParser:
    """Return a parser with the options of a backbone of the class ``base``; ``out`` is the default of ``--out``."""
    parser = make_parser(command, usage)
    parser.add_subclass_arguments(base, "backbone", required=False, help="Such as MobileNetV2, with its weights.")
    parser.add_argument("--size", type=int, default=224, help="Shorter side of the images, in pixels.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the random numbers.")
    parser.add_argument("--device", type=str | None, help="Such as cpu or cuda; default: a GPU if there is one.")
    what = "File for the picture." if out.suffix else "Folder for the results."
    parser.add_argument("--out", type=Path, default=out, help=what)
    return parser


def parse_backbone(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse the options without building objects. Raises ConfigError for invalid options."""
    if not any(argument.split("=")[0] == "--backbone" for argument in arguments) and "--help" not in arguments:
        raise ConfigError("--backbone must be set, such as MobileNetV2")
    return parse(parser, find_configs(arguments))


def build(parser: ArgumentParser, options: Namespace) -> Namespace:
    """Build the objects that the options describe, the backbone frozen and on its device.

    Raises ConfigError for a backbone without weights.
    """
    if options.backbone.init_args.get("weights") is None:
        raise ConfigError(
            "backbone.weights must be set, to a file or a name such as IMAGENET1K_V1: random weights show nothing"
        )
    device = find_device(options.device)
    built: Namespace = instantiate(parser, options)
    built.backbone = prepare(built.backbone, device)
    return built


def prepare(backbone: ConvNet, device: torch.device) -> ConvNet:
    """Freeze a backbone for inspection, channels last on ``device``."""
    backbone.eval().requires_grad_(False)
    return backbone.to(memory_format=torch.channels_last).to(device)


def checkpoint_names(files: str) -> dict[str, str]:
    """Name comma-separated checkpoints by their stems, or by their paths if two stems are the same."""
    paths = files.split(",")
    stems = [Path(path).stem for path in paths]
    return dict(zip(stems if len(set(stems)) == len(stems) else paths, paths, strict=True))


def find_block(option: str, name: str, backbone: ConvNet) -> str:
    """Return the block called ``name``, or the last block of the group of that name.

    Raises ConfigError, with the nearest names, if there is none.
    """
    blocks = [block for block in backbone.block_names if block == name or block.startswith(f"{name}.")]
    if not blocks:
        raise ConfigError(f"--{option} {name}: {backbone.name} has no such block{nearest(name, backbone.block_names)}")
    return blocks[-1]


def check_picture(out: Path) -> None:
    """Create the folder of a picture. Raises ConfigError if the picture cannot be written."""
    if out.suffix.lower() not in Image.registered_extensions():
        raise ConfigError(f"--out {out}: must end in .png or the suffix of another image format")
    check_writable("--out", out)
