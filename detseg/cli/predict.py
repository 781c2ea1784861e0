"""`detseg predict`: drawn pictures, or labels of all pixels, and a JSON file of what is in them."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace
from numpy.typing import NDArray
from PIL import Image

from detseg import checkpoint
from detseg.cli._console import import_module
from detseg.cli._parser import make_parser, parse
from detseg.cli._tta import add_tta_options, tta_config
from detseg.data.annotations.images import SUFFIXES
from detseg.errors import ConfigError, DataError
from detseg.folders import make_folder
from detseg.inference.images import find_images
from detseg.inference.predictor import Predictor
from detseg.inference.results import ClassificationResult, DetectionResult, SemanticResult
from detseg.models import Detector, Segmenter
from detseg.models.model import Model
from detseg.models.tta import TTAConfig
from detseg.ops.rle import decode, from_string

log = logging.getLogger(__name__)

REPORT, LABELS, OVERLAYS = "predictions.json", "labels", "overlays"  # what is in the folder for the pictures


def run(arguments: Sequence[str]) -> None:
    """Predict on the images that ``arguments`` name; an unreadable one is reported and the others are still done."""
    options = parse(_parser(), arguments)
    if options.module:
        import_module(options.module)
    paths = list(dict.fromkeys(find_images(options.images)))
    predictor = _predictor(options)
    targets = dict(zip(paths, _targets(predictor.model, paths, options), strict=True))
    make_folder("--out", options.out)
    entries = []
    for result in predictor.stream(paths, options.batch_size, options.threshold, bad_images="skip"):
        assert result.path is not None  # of images from files
        if isinstance(result, DetectionResult):
            entries.append(_save_detections(result, targets[result.path], options.instances))
        elif isinstance(result, SemanticResult):
            entries.append(_save_labels(result, targets[result.path]))
        else:
            entries.append(_log_classes(result))
    report = options.out / REPORT
    report.write_text("[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n")
    objects = ""
    if isinstance(predictor.model, Detector):
        objects = f", {sum(len(entry['scores']) for entry in entries)} objects"
    if isinstance(predictor.model, Segmenter):
        print(_mean_fractions(predictor.class_names, entries))
    log.info("%d images%s: %s", len(entries), objects, report)
    if len(entries) < len(paths):
        raise DataError(f"{len(paths) - len(entries)} of {len(paths)} images could not be read; they are named above")


def _parser() -> ArgumentParser:
    parser = make_parser(
        "predict",
        "IMAGE|FOLDER|'PATTERN' ... --checkpoint FILE [--out FOLDER] [--threshold 0.5]\n"
        "    [--crop_size PIXELS] [--scales [FACTOR,...]] [--flip true]",
    )
    parser.add_argument("images", type=str, nargs="+", help="Image files, folders or glob patterns.")
    parser.add_argument("--checkpoint", type=str, required=True, help="What a training or `detseg convert` wrote.")
    parser.add_argument("--out", type=Path, default=Path("out"), help="Folder for the pictures and predictions.json.")
    parser.add_argument("--threshold", type=float, default=0.5, help="Lowest score to show, 0 to 1.")
    parser.add_argument("--batch_size", type=int, default=1, help="Images that the model computes at once.")
    parser.add_argument(
        "--module", type=str | None, help="A module with classes of your own that the checkpoint needs."
    )
    parser.add_argument("--device", type=str | None, help="Such as cpu or cuda; by default a GPU if there is one.")
    parser.add_argument(
        "--instances", type=bool, default=False, help="Write PNGs with the number of the object of each pixel as well."
    )
    add_tta_options(parser)
    return parser


def _predictor(options: Namespace) -> Predictor:
    """The model of the checkpoint on its device. Raises ConfigError for an option that is not for such a model."""
    device = find_device(options.device)
    tta = tta_config(options)
    model = checkpoint.load(options.checkpoint).model.to(device)
    if tta != TTAConfig() and not isinstance(model, Segmenter):
        raise ConfigError(f"--crop_size, --scales and --flip are for segmentation; {options.checkpoint} does none")
    if options.instances and not (isinstance(model, Detector) and model.needs_masks):
        raise ConfigError(f"--instances: {options.checkpoint} finds no masks of objects; leave it out")
    return Predictor(model, tta)


def _targets(model: Model, paths: Sequence[Path], options: Namespace) -> list[Path]:
    """The file for the drawn picture of each image; the other files of the image are named after it.

    Raises ConfigError if a file to be written would replace an image.
    """
    names: set[str] = set()
    images = {path.resolve() for path in paths}
    targets = []
    for path in paths:
        segments = isinstance(model, Segmenter)  # label images are PNGs, whatever the image is
        target = options.out / _free_name(path.with_suffix(".png") if segments else path, names)
        targets.append(target)
        written = [options.out / REPORT]
        if segments:
            written += [_in(LABELS, target), _in(OVERLAYS, target)]
        elif isinstance(model, Detector):
            written += [target, *([_instances(target)] if options.instances else [])]
        taken = next((file for file in written if file.resolve() in images), None)
        if taken is not None:
            raise ConfigError(f"--out {options.out}: {taken} would take the place of an image; name another folder")
    return targets


def _in(folder: str, target: Path) -> Path:
    """The file of the same name in a folder beside ``target``."""
    return target.parent / folder / target.name


def _instances(target: Path) -> Path:
    """The file for the numbers of the objects in the picture ``target``."""
    return target.with_name(f"{target.name}.instances.png")


def find_device(name: str | None) -> torch.device:
    """The device of this name, by default the best there is. Raises ConfigError if there is no such device."""
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    try:
        device = torch.device(name or ("cuda" if gpus else "cpu"))
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError where torch has no CUDA
        known = ", ".join(["cpu", *gpus])
        raise ConfigError(f"--device {name}: there is no such device here; there is {known}") from error
    return device


def _free_name(path: Path, taken: set[str]) -> str:
    """The name of an image's picture: its own, or numbered where pictures from several folders share one.

    Taken names are compared without regard to capitals, which some file systems do not tell apart.
    """
    suffix = path.suffix if path.suffix.lower() in SUFFIXES else ".png"
    stem = path.name.removesuffix(suffix)
    numbered = (f"{stem}-{number}{suffix}" for number in itertools.count(2))
    name = next(name for name in itertools.chain([f"{stem}{suffix}"], numbered) if name.lower() not in taken)
    taken.add(name.lower())
    return name


def _log_classes(result: ClassificationResult) -> dict[str, Any]:
    """Log the likeliest classes of an image and return its entry in the JSON file."""
    log.info("%s: %s", result.path, ", ".join(f"{name} {score:.3f}" for name, score in result.top_k().items()))
    return result.to_json()


def instance_map(result: DetectionResult) -> NDArray[np.uint16]:
    """The number of the object of each pixel (h, w), from 1 in the order of the scores; the best one is on top."""
    numbers = np.zeros(result.image_size, dtype=np.uint16)
    for number, rle in reversed([*enumerate(result.mask_rles or (), start=1)]):
        numbers[decode(from_string(rle), *result.image_size)] = number
    return numbers


def _save_detections(result: DetectionResult, target: Path, instances: bool) -> dict[str, Any]:
    """Write a drawn picture, with ``instances`` the instance map too, and return the entry in the JSON file."""
    result.plot().save(target)
    log.info("%s: %d objects", target, len(result))
    entry = {**result.to_json(), "picture": target.name}
    if instances and result.mask_rles is not None:
        entry["instances"] = _instances(target).name
        Image.fromarray(instance_map(result)).save(_instances(target))
    return entry


def _save_labels(result: SemanticResult, target: Path) -> dict[str, Any]:
    """Write the label image and the overlay of an image, each in a folder, and return its entry in the JSON file."""
    labels, overlay = _in(LABELS, target), _in(OVERLAYS, target)
    for file, image in ((labels, result.label_image()), (overlay, result.plot())):
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
    shown = ", ".join(f"{name} {100 * part:.1f} %" for name, part in result.class_fractions.items())
    log.info("%s: %s", overlay, shown)
    files = {"labels": labels, "overlay": overlay}
    return {**result.to_json(), **{name: file.relative_to(target.parent).as_posix() for name, file in files.items()}}


def _mean_fractions(class_names: Sequence[str], entries: Sequence[dict[str, Any]]) -> str:
    """The mean fraction of each class over the images, the largest first, for a terminal."""
    means = {
        name: sum(entry["class_fractions"].get(name, 0.0) for entry in entries) / max(1, len(entries))
        for name in class_names
    }
    width = max(map(len, means))
    rows = sorted(means.items(), key=lambda item: -item[1])
    return "\n".join(f"{name:<{width}} {100 * part:5.1f} %" for name, part in rows)
