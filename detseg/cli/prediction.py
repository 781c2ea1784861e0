"""`detseg predict`: drawn pictures and a JSON file of what is in them."""

from __future__ import annotations

import importlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from PIL import Image

from detseg import checkpoint
from detseg.cli.faults import PARSER, parse
from detseg.data.images import read_image
from detseg.draw import draw
from detseg.errors import ConfigError, DataError
from detseg.tasks import Detection, Prediction, find_images

log = logging.getLogger(__name__)


def predict(arguments: Sequence[str]) -> None:
    """Find objects in the images that ``arguments`` name; a broken one is reported and the others are still done."""
    parser = ArgumentParser(
        prog="detseg predict",
        usage="detseg predict IMAGE|FOLDER|'PATTERN' ... --checkpoint FILE [--out FOLDER] [--threshold 0.5]",
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
    options = parse(parser, arguments)

    if options.module:
        importlib.import_module(options.module)
    paths = find_images(options.images)
    task = checkpoint.load(options.checkpoint)
    task.to(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options.out.mkdir(parents=True, exist_ok=True)
    counts = Counter(path.name for path in paths)
    done: list[dict[str, Any]] = []
    failed = 0
    for path in paths:
        # Pictures of the same name from several folders must not take each other's place.
        target = options.out / (path.name if counts[path.name] == 1 else "_".join(path.parts[-2:]))
        try:
            done += [_save(task, found, target) for found in task.predict(path, options.threshold)]
        except DataError as error:
            log.error("%s", error)
            failed += 1
    target = options.out / "predictions.json"
    target.write_text("[\n" + ",\n".join(map(json.dumps, done)) + "\n]\n")
    log.info("%d images, %d objects: %s", len(done), sum(len(one["scores"]) for one in done), target)
    if failed:
        raise DataError(f"{failed} of {len(paths)} images could not be read; they are named above")


def _save(task: Detection, found: Prediction, target: Path) -> dict[str, Any]:
    """Write one picture and return its entry in the JSON file."""
    if target.resolve() == found.path.resolve():
        raise ConfigError(
            f"--out {target.parent}: the pictures would take the place of the images; name another folder"
        )
    labels = [task.classes.index(name) for name in found.classes]
    picture = draw(read_image(found.path), found.boxes, labels, task.classes, found.scores)
    Image.fromarray(picture).save(target)
    log.info("%s: %d objects", target, len(labels))
    return {
        "file": str(found.path),
        "classes": found.classes,
        "scores": [round(float(score), 4) for score in found.scores],
        "boxes": found.boxes.round(2).tolist(),
    }
