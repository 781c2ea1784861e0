"""`detseg heatmap`: map the scores of a classifier over a large image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torchvision
from jsonargparse import ArgumentParser, Namespace
from numpy.typing import NDArray
from PIL import Image

from detseg import checkpoint
from detseg.analysis.charts import labelled_grid
from detseg.analysis.heatmap import class_evidence, interpolate_windows, top_classes, window_probabilities
from detseg.analysis.visualization import paint
from detseg.cli._backbones import check_picture
from detseg.cli._configs import find_configs, nearest
from detseg.cli._devices import find_device
from detseg.cli._parser import instantiate, make_parser, parse, require_minimum
from detseg.data.annotations.images import read_image
from detseg.data.modules.crops import shorter_side
from detseg.draw import ImageArray, heat
from detseg.errors import ConfigError, DataError
from detseg.models import Classifier
from detseg.modules.backbones import ConvNet
from detseg.preprocessing import CenterCropConfig

log = logging.getLogger(__name__)

COLUMNS = 3
IMAGENET = 1000  # classes


def run(arguments: Sequence[str]) -> None:
    """Draw the probability of each class at every position of an image."""
    parser = _parser()
    options = parse(parser, find_configs(arguments))
    require_minimum(options, count=1)
    check_picture(options.out)
    classifier, classes, size = _classifier(parser, options)
    image = read_image(Path(options.image))
    if options.side is not None:
        if options.side < size:
            raise ConfigError(f"--side {options.side}: must be at least the {size} pixels that the classifier looks at")
        image = shorter_side(image, options.side)
    device = find_device(options.device)
    if options.evidence:
        _draw_evidence(classifier, classes, image, device, options)
        return
    if min(image.shape[:2]) < size:
        raise DataError(
            f"{options.image}: its shorter side has {min(image.shape[:2])} pixels, fewer than the {size} that the "
            f"classifier looks at; --side {size} makes it as large"
        )
    maps = window_probabilities(classifier, image, size, device)
    chosen = _chosen(options.classes, classes, maps, options.count)
    stride = classifier.backbone.strides[-1]
    log.info("%d x %d windows of %d pixels, %d pixels apart", *maps.shape[1:], size, stride)
    pictures, texts = [image], [Path(options.image).name]
    for label in chosen:
        pictures.append(heat(image, interpolate_windows(maps[label], image.shape[:2], size, stride)))
        texts.append(f"{classes[label]}: {maps[label].max():.2f}")
        log.info("%s: %.3f at most, %.3f on average", classes[label], maps[label].max(), maps[label].mean())
    title = f"{type(classifier.backbone).__name__} as convolutions: probabilities in windows of {size} x {size} pixels"
    Image.fromarray(labelled_grid(title, pictures, texts, COLUMNS, 400)).save(options.out)
    log.info("picture: %s", options.out)


def _draw_evidence(
    classifier: Classifier, classes: Sequence[str], image: ImageArray, device: torch.device, options: Namespace
) -> None:
    """Draw the logits of each cell of the last map, whose mean is the classifier's logit."""
    try:
        maps = class_evidence(classifier, image, device)
    except ValueError as error:
        raise ConfigError(f"--evidence true: {error}; leave it out") from error
    chosen = _chosen(options.classes, classes, maps.mean(axis=(1, 2), keepdims=True), options.count)
    pictures, texts = [image], [Path(options.image).name]
    for label in chosen:
        pictures.append(paint(maps[label]))
        texts.append(f"{classes[label]}: {maps[label].mean():.2f}, {maps[label].min():.1f} to {maps[label].max():.1f}")
        log.info("%s", texts[-1])
    title = f"{type(classifier.backbone).__name__}: logits of each patch (red above 0, blue below) and their mean"
    Image.fromarray(labelled_grid(title, pictures, texts, COLUMNS, 400)).save(options.out)
    log.info("picture: %s", options.out)


def _parser() -> ArgumentParser:
    parser = make_parser(
        "heatmap",
        "IMAGE --checkpoint FILE | --backbone CLASS --backbone.weights FILE\n"
        "    [--classes NAME,...] [--side PIXELS] [--evidence true] [--out FILE.png]",
    )
    parser.add_argument("image", type=str, help="A photograph, larger than what the classifier was trained on.")
    parser.add_argument("--checkpoint", type=str | None, help="A classifier that was trained here.")
    parser.add_subclass_arguments(ConvNet, "backbone", required=False, help="Such as SqueezeNet; ImageNet's classes.")
    parser.add_argument("--classes", type=str | None, help="Names, with commas between; by default the surest.")
    parser.add_argument("--count", type=int, default=5, help="How many classes, where none are named.")
    parser.add_argument("--side", type=int | None, help="Pixels to bring the shorter side to; by default as it is.")
    parser.add_argument(
        "--evidence", type=bool, default=False, help="Draw the logits of each patch, as of a BagNet, instead."
    )
    parser.add_argument("--device", type=str | None, help="Such as cpu or cuda; by default a GPU if there is one.")
    parser.add_argument("--out", type=Path, default=Path("heatmap.png"), help="File for the picture.")
    return parser


def _classifier(parser: ArgumentParser, options: Namespace) -> tuple[Classifier, Sequence[str], int]:
    """The classifier, the names of its classes, and the size of the images that it was trained on."""
    if bool(options.checkpoint) == bool(options.get("backbone")):
        raise ConfigError("give one of --checkpoint, a classifier that was trained here, and --backbone")
    if options.checkpoint:
        classifier = checkpoint.load_model(options.checkpoint)
        if not isinstance(classifier, Classifier):
            raise ConfigError(f"--checkpoint {options.checkpoint}: holds {type(classifier).__name__}, no classifier")
        assert isinstance(classifier.preprocessing, CenterCropConfig)
        return classifier, classifier.class_names, classifier.preprocessing.size
    if options.backbone.init_args.get("weights") is None:
        raise ConfigError("backbone.weights must be set, to a file or a name such as IMAGENET1K_V1")
    backbone = instantiate(parser, options).backbone
    try:
        classifier = Classifier(backbone, IMAGENET)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if backbone.missing_head_tensors:
        raise ConfigError(
            f"backbone.weights {backbone.weights}: have no {backbone.missing_head_tensors[0]} of ImageNet's {IMAGENET} "
            "classes, without which its logits mean nothing; give weights of the whole classifier, such as "
            "IMAGENET1K_V1, or what was trained here as --checkpoint"
        )
    names: Sequence[str] = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
    return classifier, names, backbone.image_size


def _chosen(given: str | None, classes: Sequence[str], maps: NDArray[np.float32], count: int) -> list[int]:
    """The labels to show: those named, or those of which some window is surest."""
    if given is None:
        return top_classes(maps, count)
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in classes:
            raise ConfigError(f"--classes {name}: there is no such class{nearest(name, list(classes))}")
    return [list(classes).index(name) for name in names]
