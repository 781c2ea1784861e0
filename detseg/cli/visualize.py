"""`detseg visualize`: show the inputs that excite the channels of a layer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser, Namespace
from PIL import Image, ImageDraw

from detseg.analysis.charts import labelled_grid
from detseg.analysis.visualization import AscentConfig, Patch, activations, ascend, exciting_patches, paint
from detseg.cli._backbones import backbone_parser, build, check_picture, find_block, parse_backbone
from detseg.cli._parser import require_minimum
from detseg.data.annotations.images import read_image
from detseg.data.modules.crops import shorter_side
from detseg.draw import ImageArray
from detseg.errors import ConfigError, DataError
from detseg.inference.sources import find_images
from detseg.modules.backbones import ConvNet

log = logging.getLogger(__name__)

COLUMNS = 6
PATCHES = 6  # for each channel
MAPS = 23  # of an image without --channel, those that vary most; four rows together with the image
FRAME = (255, 210, 0)


def run(arguments: Sequence[str]) -> None:
    """Draw optimised pictures, the feature maps of an image, or the most exciting patches of a folder."""
    parser = _parser()
    options = parse_backbone(parser, arguments)
    require_minimum(options, size=32, steps=1, jitter=0, blur=0)
    if options.image and options.images:
        raise ConfigError("--image shows the maps of one image, --images patches of many: give one of the two")
    check_picture(options.out)
    options = build(parser, options)
    backbone = options.backbone
    block = find_block("layer", options.layer, backbone)
    channels = _channels(options, backbone, block)
    if options.image:
        sheet = _maps(options, backbone, block, channels)
    elif options.images:
        sheet = _patches(options, backbone, block, channels)
    else:
        sheet = _made(options, backbone, block, channels)
    Image.fromarray(sheet).save(options.out)
    log.info("picture: %s", options.out)


def _parser() -> ArgumentParser:
    parser = backbone_parser(
        "visualize",
        "--backbone CLASS --backbone.weights FILE --layer BLOCK --channel N[,N...]\n"
        "                        [--image FILE | --images FOLDER] [--out FILE.png]",
        Path("visualize.png"),
    )
    parser.add_argument("--layer", type=str, required=True, help="A block of the backbone, or a group: its last one.")
    parser.add_argument("--channel", type=str | None, help="Numbers from 0, with commas between.")
    parser.add_argument("--image", type=str | None, help="Show the maps of this image.")
    parser.add_argument("--images", type=str | None, help="Show the patches that excite the channels most in a folder.")
    parser.add_argument("--steps", type=int, default=256, help="Steps of gradient ascent.")
    parser.add_argument("--jitter", type=int, default=8, help="Largest random shift of the picture, in pixels.")
    parser.add_argument("--blur", type=float, default=0.0, help="Standard deviation of the blur, in pixels.")
    parser.add_argument(
        "--decorrelated", type=bool, default=True, help="Optimise in the Fourier spectrum instead of the pixels."
    )
    return parser


def _channels(options: Namespace, backbone: ConvNet, block: str) -> list[int]:
    """Return the channels of --channel, none if an image shall choose them. Raises ConfigError for invalid ones."""
    count = activations(backbone, block, np.zeros((options.size, options.size, 3), np.uint8)).shape[0]
    if options.channel is None:
        if options.image:
            return []
        raise ConfigError(f"--channel must be set: {block} has {count}, 0 to {count - 1}")
    words = [word.strip() for word in options.channel.split(",")]
    for word in words:
        if not word.isdecimal() or int(word) >= count:
            raise ConfigError(f"--channel {word}: {block} has {count} channels, 0 to {count - 1}")
    return list(dict.fromkeys(map(int, words)))


def _made(options: Namespace, backbone: ConvNet, block: str, channels: list[int]) -> ImageArray:
    config = AscentConfig(options.steps, options.jitter, options.blur, options.decorrelated, options.seed)
    made = ascend(backbone, block, channels, options.size, config)
    for channel, before, after in zip(channels, made.before, made.after, strict=True):
        log.info(
            "channel %d: mean activation %.3g at the start, %.3g after %d steps", channel, before, after, options.steps
        )
        if before == after == 0:
            log.warning("channel %d: it stayed silent, as some do; try more --steps, or another --seed", channel)
    texts = [f"{channel}: {b:.3g} to {a:.3g}" for channel, b, a in zip(channels, made.before, made.after, strict=True)]
    title = f"{backbone.name} {block}: made to excite a channel (its mean at the start, at the end)"
    return labelled_grid(title, made.pictures, texts, COLUMNS, max(options.size, 200))


def _maps(options: Namespace, backbone: ConvNet, block: str, channels: list[int]) -> ImageArray:
    image = shorter_side(read_image(Path(options.image)), options.size)
    maps = activations(backbone, block, image)
    channels = channels or np.argsort(-maps.std(axis=(1, 2)), kind="stable")[:MAPS].tolist()
    texts = [f"{channel}: {maps[channel].min():.2g} to {maps[channel].max():.2g}" for channel in channels]
    pictures = [image, *(paint(maps[channel]) for channel in channels)]
    title = f"{backbone.name} {block}: channels on {Path(options.image).name} (red above 0, blue below)"
    return labelled_grid(title, pictures, [Path(options.image).name, *texts], COLUMNS, 200)


def _patches(options: Namespace, backbone: ConvNet, block: str, channels: list[int]) -> ImageArray:
    if not Path(options.images).is_dir():
        raise DataError(f"--images {options.images}: no such folder; for the maps of one image there is --image")
    paths = find_images(options.images)

    def pictures() -> Iterator[tuple[Path, ImageArray]]:
        for path in paths:
            yield path, shorter_side(read_image(path), options.size)

    exciting = exciting_patches(backbone, block, channels, pictures(), PATCHES)
    cells, texts = [], []
    for channel, patches in zip(channels, exciting, strict=True):
        for patch in patches:
            cells.append(_framed(patch))
            texts.append(f"{channel}: {patch.activation:.3g}  {patch.image.stem}")
            log.info("channel %d: %.3g at %s of %s", channel, patch.activation, list(patch.box), patch.image)
    title = f"{backbone.name} {block}: what its most excited cells see in {len(paths)} images (frame: under the cell)"
    return labelled_grid(title, cells, texts, min(PATCHES, len(paths)), 200)


def _framed(patch: Patch) -> ImageArray:
    """Crop the receptive field of a cell, with a frame around the cell if the field is much larger."""
    x1, y1, x2, y2 = patch.box
    left, top, right, bottom = patch.centre
    if (x2 - x1) * (y2 - y1) < 4 * (right - left) * (bottom - top):
        return patch.pixels[y1:y2, x1:x2]
    image = Image.fromarray(patch.pixels)
    ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), outline=FRAME, width=1)
    return np.asarray(image)[y1:y2, x1:x2]
