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
from detseg.cli._errors import PARSER, parse
from detseg.cli._tta import add_views, views
from detseg.data.annotations.images import SUFFIXES, read_image
from detseg.draw import draw, overlay, save_labels
from detseg.errors import ConfigError, DataError
from detseg.folders import make_folder
from detseg.inference.prediction import DetectionResult, find_images
from detseg.inference.tta import TTAConfig
from detseg.ops.rle import decode, from_string
from detseg.tasks import ClassificationResult, ClassificationTask, DetectionTask, SegmentationTask, SemanticResult, Task

log = logging.getLogger(__name__)

REPORT, LABELS, OVERLAYS = "predictions.json", "labels", "overlays"  # what is in the folder for the pictures


def run(arguments: Sequence[str]) -> None:
    """Find objects in the images that ``arguments`` name; a broken one is reported and the others are still done."""
    options = parse(_parser(), arguments)
    if not 0 <= options.threshold <= 1:
        raise ConfigError(f"--threshold {options.threshold:g}: must be between 0 and 1, as scores are")
    if options.module:
        import_module(options.module)
    paths = find_images(options.images)
    task = _task(options)
    targets = _targets(task, paths, options)
    make_folder("--out", options.out)
    done: list[dict[str, Any]] = []
    failed = 0
    for path, target in zip(paths, targets, strict=True):
        try:
            if isinstance(task, DetectionTask):
                done += [_save(task, one, target, options.instances) for one in task.predict(path, options.threshold)]
            elif isinstance(task, ClassificationTask):
                done += map(_say, task.predict(path))
            elif isinstance(task, SegmentationTask):
                done += [_save_labels(task, one, target) for one in task.predict(path)]
        except DataError as error:
            log.error("%s", error)
            failed += 1
    report = options.out / REPORT
    report.write_text("[\n" + ",\n".join(map(json.dumps, done)) + "\n]\n")
    objects = f", {sum(len(one['scores']) for one in done)} objects" if isinstance(task, DetectionTask) else ""
    if isinstance(task, SegmentationTask):
        print(_shares(task, done))
    log.info("%d images%s: %s", len(done), objects, report)
    if failed:
        raise DataError(f"{failed} of {len(paths)} images could not be read; they are named above")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="detseg predict",
        usage="detseg predict IMAGE|FOLDER|'PATTERN' ... --checkpoint FILE [--out FOLDER] [--threshold 0.5]\n"
        "                      [--window PIXELS] [--scales [FACTOR,...]] [--flip true]",
        **PARSER,
    )
    parser.add_argument("images", type=str, nargs="+", help="Image files, folders or glob patterns.")
    parser.add_argument("--checkpoint", type=str, required=True, help="What a training or `detseg convert` wrote.")
    parser.add_argument("--out", type=Path, default=Path("out"), help="Folder for the pictures and predictions.json.")
    parser.add_argument("--threshold", type=float, default=0.5, help="Lowest score to show, 0 to 1.")
    parser.add_argument(
        "--module", type=str | None, help="A module with classes of your own that the checkpoint needs."
    )
    parser.add_argument("--device", type=str | None, help="Such as cpu or cuda; by default a GPU if there is one.")
    parser.add_argument(
        "--instances", type=bool, default=False, help="Write PNGs with the number of the object of each pixel as well."
    )
    add_views(parser)
    return parser


def _task(options: Namespace) -> Task:
    """The task in the checkpoint, on its device. Raises ConfigError for an option that is not for such a task."""
    device = find_device(options.device)
    task = checkpoint.load(options.checkpoint).to(device)
    if isinstance(task, SegmentationTask):
        task.views = views(options)
    elif views(options) != TTAConfig():
        raise ConfigError(f"--window, --scales and --flip are for segmentation; {options.checkpoint} does none")
    if options.instances and not (isinstance(task, DetectionTask) and task.model.needs_masks):
        raise ConfigError(f"--instances: {options.checkpoint} finds no masks of objects; leave it out")
    return task


def _targets(task: Task, paths: Sequence[Path], options: Namespace) -> list[Path]:
    """The file of each image in the folder for the pictures, by whose name all that is written of it is called.

    Raises ConfigError if anything that will be written would take the place of an image.
    """
    names: set[str] = set()
    images = {path.resolve() for path in paths}
    targets = []
    for path in paths:
        segments = isinstance(task, SegmentationTask)  # label images are PNGs, whatever the image is
        target = options.out / _free_name(path.with_suffix(".png") if segments else path, names)
        targets.append(target)
        written = [options.out / REPORT]
        if segments:
            written += [_in(LABELS, target), _in(OVERLAYS, target)]
        elif isinstance(task, DetectionTask):
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


def _say(answer: ClassificationResult) -> dict[str, Any]:
    """Print the surest classes of an image and return its entry in the JSON file."""
    scores = [round(float(score), 4) for score in answer.scores]
    said = ", ".join(f"{name} {score:.3f}" for name, score in zip(answer.classes, scores, strict=True))
    log.info("%s: %s", answer.path, said)
    return {"file": str(answer.path), "classes": answer.classes, "scores": scores}


def instance_map(found: DetectionResult) -> NDArray[np.uint16]:
    """The number of the object of each pixel (h, w), from 1 in the order of the scores; the surer one is on top."""
    numbers = np.zeros(found.size, dtype=np.uint16)
    for number, text in reversed([*enumerate(found.masks or (), start=1)]):
        numbers[decode(from_string(text), *found.size)] = number
    return numbers


def _save(task: DetectionTask, found: DetectionResult, target: Path, instances: bool) -> dict[str, Any]:
    """Write one picture, with ``instances`` the numbers of its objects too, and return its entry in the JSON file."""
    labels = [task.classes.index(name) for name in found.classes]
    masks = (decode(from_string(text), *found.size) for text in found.masks or ())
    picture = draw(read_image(found.path), found.boxes, labels, task.classes, found.scores, masks)
    Image.fromarray(picture).save(target)
    log.info("%s: %d objects", target, len(labels))
    more: dict[str, Any] = {}
    if found.masks is not None:
        more["masks"] = [{"size": list(found.size), "counts": text.decode()} for text in found.masks]
        if instances:
            more["instances"] = _instances(target).name
            Image.fromarray(instance_map(found)).save(_instances(target))
    return {
        "file": str(found.path),
        "picture": target.name,
        "classes": found.classes,
        "scores": [round(float(score), 4) for score in found.scores],
        "boxes": found.boxes.round(2).tolist(),
        **more,
    }


def _save_labels(task: SegmentationTask, found: SemanticResult, target: Path) -> dict[str, Any]:
    """Write the labels of one image and a picture of them, each in a folder, and return its entry in the JSON file."""
    labels, picture = _in(LABELS, target), _in(OVERLAYS, target)
    for file in (labels, picture):
        file.parent.mkdir(parents=True, exist_ok=True)
    save_labels(found.labels, labels)
    Image.fromarray(overlay(read_image(found.path), found.labels, task.classes)).save(picture)
    shown = ", ".join(f"{name} {100 * share:.1f} %" for name, share in found.shares.items())
    log.info("%s: %s", picture, shown)
    return {
        "file": str(found.path),
        "labels": labels.relative_to(target.parent).as_posix(),
        "overlay": picture.relative_to(target.parent).as_posix(),
        "shares": {name: round(share, 6) for name, share in found.shares.items()},
    }


def _shares(task: SegmentationTask, done: Sequence[dict[str, Any]]) -> str:
    """The mean share of each class over the images, the largest first, for a terminal."""
    means = {name: sum(one["shares"].get(name, 0.0) for one in done) / max(1, len(done)) for name in task.classes}
    width = max(map(len, means))
    rows = sorted(means.items(), key=lambda item: -item[1])
    return "\n".join(f"{name:<{width}} {100 * share:5.1f} %" for name, share in rows)
