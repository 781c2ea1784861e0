"""`detseg bias`: the shape and texture bias of classifiers."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Literal

import numpy as np
from jsonargparse import ArgumentParser, Namespace
from numpy.typing import NDArray
from PIL import Image

from detseg.analysis.charts import labelled_grid
from detseg.analysis.texture_bias import cue_share, draw_bias, fill_silhouette, transfer_style
from detseg.cli._backbones import backbone_parser, build, checkpoint_names
from detseg.cli._configs import find_configs
from detseg.cli._parser import parse, require_minimum
from detseg.data.formats.format_detection import detect_source
from detseg.data.modules.crops import ClassificationCrops, from_images
from detseg.draw import ImageArray
from detseg.errors import ConfigError, DataError
from detseg.folders import make_folder, writing
from detseg.inference import load
from detseg.models import Classifier
from detseg.modules.backbones import VGG
from detseg.progress import progress

log = logging.getLogger(__name__)

SHOWN = 18  # cue-conflict images in the picture
USAGE = """FOLDER --checkpoints FILE,... [--method silhouette]
    | --method style --backbone VGG --backbone.weights FILE [--out FOLDER]"""


def run(arguments: Sequence[str]) -> None:
    """Make images with the shape of one class and the texture of another, and count the decisions of classifiers."""
    parser = _parser()
    options = parse(parser, find_configs(arguments))
    require_minimum(options, size=32, count=1, steps=1)
    make_folder("--out", options.out)
    source = detect_source(options.folder, task="classification")
    pictures = from_images(source.read([*source.splits][-1]))
    predictors = {name: load(path, options.device) for name, path in checkpoint_names(options.checkpoints).items()}
    for name, predictor in predictors.items():
        if not isinstance(predictor.model, Classifier):
            raise ConfigError(f"--checkpoints {name}: holds {type(predictor.model).__name__}, not a classifier")
        if missing := set(pictures.classes) - set(predictor.class_names):
            raise DataError(f"{options.folder}: the class {min(missing)} is not among those of {name}")
    images, shapes, textures = _conflicts(pictures, _style_backbone(parser, options), options)
    shares, decisions = {}, {}
    for name, predictor in predictors.items():
        best = [result.class_names[result.labels[0]] for result in predictor(iter(images))]
        decisions[name] = best
        labels = [pictures.classes.index(one) if one in pictures.classes else -1 for one in best]
        shares[name] = cue_share(labels, shapes, textures, len(pictures.classes))
    with writing("--out", options.out):
        title = f"Shape or texture: {len(images)} cue-conflict images ({options.method})"
        Image.fromarray(draw_bias(title, pictures.classes, shares)).save(options.out / "bias.png")
        _write_conflicts(pictures.classes, images, shapes, textures, decisions, options.out)
    print("network           shape  texture  neither  share of shape")
    for name, share in shares.items():
        counts = share.shape.sum(), share.texture.sum()
        neither, bias = share.images - sum(counts), 100 * share.shape_bias
        print(f"{name:<16} {counts[0]:>6} {counts[1]:>8} {neither:>8} {bias:>13.1f} %")
    log.info("%s: bias.png, conflicts.png, decisions.csv", options.out)


def _parser() -> ArgumentParser:
    parser = backbone_parser("bias", USAGE, Path("bias"), VGG)
    parser.add_argument("folder", type=Path, help="One folder per class; if split, the last split is used.")
    parser.add_argument("--checkpoints", type=str, required=True, help="Classifiers, comma-separated.")
    parser.add_argument(
        "--method",
        type=Literal["silhouette", "style"],
        default="silhouette",
        help="Fill silhouettes of objects on plain backgrounds, or transfer the style, at a minute per image.",
    )
    parser.add_argument("--count", type=int, default=4, help="Images of each pair of classes.")
    parser.add_argument("--steps", type=int, default=200, help="Of the style transfer.")
    return parser


def _style_backbone(parser: ArgumentParser, options: Namespace) -> VGG | None:
    if options.method == "silhouette":
        return None
    if not options.get("backbone"):
        raise ConfigError("--method style: needs --backbone VGG with --backbone.weights")
    backbone: VGG = build(parser, options).backbone
    return backbone


def _conflicts(
    pictures: ClassificationCrops, backbone: VGG | None, options: Namespace
) -> tuple[list[ImageArray], NDArray[np.int64], NDArray[np.int64]]:
    """Make ``count`` images of each ordered pair of classes; returns them with the classes of shape and texture."""
    generator = np.random.default_rng(options.seed)
    members = [np.flatnonzero(pictures.labels == label) for label in range(len(pictures.classes))]
    empty = [name for name, rows in zip(pictures.classes, members, strict=True) if not len(rows)]
    if empty or len(members) < 2:
        missing = f"has no image of {empty[0]}" if empty else "has one class"
        raise DataError(f"{options.folder}: the split {missing}; cues conflict between classes, each with images")
    pairs = [pair for pair in permutations(range(len(members)), 2) for _ in range(options.count)]
    images = []
    with progress(0, len(pairs), "cue-conflict images") as advance:
        for pair in pairs:
            rows = [int(generator.choice(members[label])) for label in pair]
            shape, texture = (pictures.read(row, options.size) for row in rows)
            if backbone is None:
                try:
                    images.append(fill_silhouette(shape, texture, generator))
                except ValueError as error:
                    raise DataError(
                        f"{pictures.files[rows[1]]}: {error}; leave it out, or use --method style"
                    ) from error
            else:
                images.append(transfer_style(backbone, shape, texture, options.steps))
            advance()
    shapes, textures = np.array(pairs).T
    return images, shapes, textures


def _write_conflicts(
    classes: Sequence[str],
    images: list[ImageArray],
    shapes: NDArray[np.int64],
    textures: NDArray[np.int64],
    decisions: dict[str, list[str]],
    out: Path,
) -> None:
    """Write the images, some of them in one picture, and a table of all decisions."""
    (out / "images").mkdir(exist_ok=True)
    with (out / "decisions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "shape", "texture", *decisions])
        for row, image in enumerate(images):
            name = f"images/{row:04d}.png"
            Image.fromarray(image).save(out / name)
            cues = classes[shapes[row]], classes[textures[row]]
            writer.writerow([name, *cues, *(of_network[row] for of_network in decisions.values())])
    chosen = np.linspace(0, len(images) - 1, min(SHOWN, len(images))).round().astype(int)
    captions = [f"{classes[shapes[row]]} of {classes[textures[row]]}" for row in chosen]
    sheet = labelled_grid("Shape of one class, texture of another", [images[row] for row in chosen], captions, 6, 150)
    Image.fromarray(sheet).save(out / "conflicts.png")
