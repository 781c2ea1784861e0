"""`detseg predict`: results of images as JSON lines, drawn pictures, and labels of all pixels."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser, Namespace

from detseg.cli._console import import_module
from detseg.cli._devices import find_device
from detseg.cli._parser import make_parser, parse
from detseg.cli._video import add_video_options, names_video, predict_on_video
from detseg.cli._views import CHECKPOINT, add_view_options, make_predictor, split_checkpoints, tile_overlap
from detseg.cli.merge import write_as
from detseg.errors import ConfigError, DataError
from detseg.folders import make_folder, writing
from detseg.inference.batching import map_ahead
from detseg.inference.images import ImageNames
from detseg.inference.loading import load_model
from detseg.inference.pictures import PictureWriter, check_targets, instances_name, picture_names
from detseg.inference.predictor import DEFAULT_THRESHOLD, Predictor, thread_count
from detseg.inference.ranks import Ranks, launch
from detseg.inference.result_files import ResultsWriter, Shard, finish, finished_images, start
from detseg.inference.sources import STDIN, list_images
from detseg.inference.writers import FORMATS, check_format
from detseg.models import Detector, Segmenter
from detseg.models.model import Model
from detseg.plural import counted
from detseg.progress import progress

log = logging.getLogger(__name__)

DRAWN = 100  # images that are drawn by default


def run(arguments: Sequence[str]) -> None:
    """Predict on the images that ``arguments`` name; an unreadable one is reported and the others are still done."""
    remaining, members = split_checkpoints(arguments)
    options = parse(_parser(), remaining)
    if options.module:
        import_module(options.module)
    with launch(["predict", *arguments], options.devices) as ranks:
        _predict(options, members, ranks)


def _predict(options: Namespace, members: Sequence[str], ranks: Ranks) -> None:
    """Predict on this process's part of the images; the first process reports all of them."""
    if ranks.world_size > 1 and STDIN in options.images:
        raise ConfigError(f"images {STDIN}: several processes cannot read standard input; write the names to a .txt")
    if names_video(options):
        predictor = _predictor(options, members, ranks)
        predict_on_video(predictor, options, _batch_size(options, predictor))
        return
    shard = Shard.parse(options.shard)
    names = list(dict.fromkeys(list_images(options.images, options.recursive, options.column)))
    predictor = _predictor(options, members, ranks)
    make_folder("--out", options.out)
    _check_format(options, predictor, names)
    pictures = _pictures(predictor, names, options)
    file = options.out / shard.file
    part = shard.split(ranks.rank, ranks.world_size)
    images = [name for name in names if part.holds(name)]
    done = finished_images(file) if options.resume else set()
    remaining = [name for name in images if name not in done]
    batch_size = _batch_size(options, predictor)
    threads = options.num_workers
    results = predictor.stream(ImageNames(remaining), batch_size, options.threshold, "result", threads)
    with writing("--out", options.out):
        if ranks.rank == 0:
            start(file, options.resume, _settings(predictor, options))
        ranks.wait()  # until the folder is ready
        writer = ResultsWriter(file, ranks.rank)
        bar = progress(len(images) - len(remaining), len(images), "predict")
        with bar if ranks.rank == 0 else nullcontext(lambda: None) as advance:
            for entry in map_ahead(pictures.save, results, thread_count(threads)):
                writer.append(entry)
                if text := pictures.describe(entry):
                    log.info("%s", text)
                advance()
        writer.close()
        ranks.wait()  # until all results are there
        if ranks.rank == 0:
            _finish(file, predictor, options, len(names))


def _batch_size(options: Namespace, predictor: Predictor) -> int:
    """The number of images that the model computes at once."""
    default = 8 if predictor.device.type == "cuda" else 1
    return default if options.batch_size is None else options.batch_size


def _check_format(options: Namespace, predictor: Predictor, names: Sequence[str]) -> None:
    """Raise ConfigError for another format that the results cannot be written in, before hours of work."""
    if name := options["as"]:
        if options.shard != "1/1":
            raise ConfigError(f"--as {name}: a shard has no other format; give --as to `detseg merge`")
        check_format(options.out, name, task_of(predictor.model), names)


def _finish(file: Path, predictor: Predictor, options: Namespace, count: int) -> None:
    """Complete the files, and print counts. Raises DataError if images could not be read."""
    summary = finish(file)
    if options["as"]:
        write_as(options.out, options["as"])
    if options.draw == DRAWN < count:
        log.info("the first %d images are drawn; --draw all draws every image", DRAWN)
    read = summary.images - summary.failed
    if isinstance(predictor.model, Segmenter) and read:
        print(_mean_fractions({name: summary.fractions[name] / read for name in predictor.class_names}))
    objects = f", {counted(summary.objects, 'object')}" if isinstance(predictor.model, Detector) else ""
    log.info("%s%s: %s", counted(read, "image"), objects, file)
    if summary.failed:
        raise DataError(
            f"{summary.failed} of {summary.images} images could not be read; their lines in {file} hold the error"
        )


def _parser() -> ArgumentParser:
    parser = make_parser(
        "predict",
        "IMAGE|FOLDER|'PATTERN'|LIST.txt|TABLE.csv|ARCHIVE.zip|URL|- ... --checkpoint FILE [--out FOLDER]\n"
        "    [--threshold SCORE] [--draw none|all|NUMBER] [--as FORMAT] [--resume true] [--shard 1/8]\n"
        "    [--scales [FACTOR,...]] [--flip true] [--tile PIXELS]",
    )
    add = parser.add_argument
    add("images", type=str, nargs="+", help="Image files, folders, patterns, lists, archives, URLs, or - for stdin.")
    add("--checkpoint", type=str, required=True, help=CHECKPOINT)
    add("--out", type=Path, default=Path("out"), help="Folder for predictions.jsonl and the pictures.")
    add("--threshold", type=float | None, help="Lowest score to keep, 0 to 1; default: the checkpoint's, else 0.5.")
    add("--draw", type=int | Literal["none", "all"], default=DRAWN, help="Draw this many images, none or all.")
    add("--instances", type=bool, default=False, help="Also write PNGs with the instance number of each pixel.")
    add("--recursive", type=bool, default=False, help="Take images in subfolders of folders too.")
    add("--column", type=str, default="file", help="Column of CSV and Parquet files with the names of images.")
    add(
        "--as",
        type=Literal[FORMATS] | None,
        help="Another format to write too; COCO to LabelMe are data sets.",
    )
    add("--resume", type=bool, default=False, help="Continue an interrupted run: compute only images without a result.")
    add("--shard", type=str, default="1/1", help="Compute one of several parts, such as 2/8; see `detseg merge`.")
    add("--batch_size", type=int | None, help="Images that the model computes at once; default: 8 on a GPU, else 1.")
    add("--num_workers", type=int | None, help="Threads that read and draw images; default: the cores, at most 16.")
    add("--module", type=str | None, help="A module with classes of your own that the checkpoint needs.")
    add("--device", type=str | None, help="Such as cpu or cuda; by default a GPU if there is one.")
    add(
        "--devices",
        type=int,
        default=1,
        help="Processes among which the images are divided, with one GPU each.",
    )
    add_view_options(parser)
    add_video_options(parser)
    return parser


def _predictor(options: Namespace, members: Sequence[str], ranks: Ranks) -> Predictor:
    """The model of the checkpoint on its device. Raises ConfigError for an option that is not for such a model."""
    name = options.device
    if ranks.world_size > 1 and (name == "cuda" or (name is None and torch.cuda.is_available())):
        name = f"cuda:{ranks.local_rank}"
    device = find_device(name)
    model = load_model(options.checkpoint).to(device)
    if options.instances and not (isinstance(model, Detector) and model.needs_masks):
        raise ConfigError(f"--instances: {options.checkpoint} finds no masks of objects; leave it out")
    return make_predictor(model, members, options)


def _pictures(predictor: Predictor, names: Sequence[str], options: Namespace) -> PictureWriter:
    """Choose the names of all image files. Raises ConfigError if one would take the place of an image."""
    if isinstance(options.draw, int) and options.draw < 0:
        raise ConfigError(f"--draw {options.draw}: must be none, all or a number of images")
    drawn = set(names[: {"none": 0, "all": None}.get(options.draw, options.draw)])
    segments = isinstance(predictor.model, Segmenter)
    wanted = set(names) if segments or options.instances else drawn
    files = picture_names(names, wanted, ".png" if segments else None)  # label images are PNGs, whatever the image is
    if segments:
        targets = [f"{folder}/{name}" for name in files.values() for folder in ("labels", "overlays")]
    else:
        targets = [*files.values(), *map(instances_name, files.values() if options.instances else ())]
    check_targets(options.out, targets, names)
    return PictureWriter(options.out, files, drawn, options.instances)


def _settings(predictor: Predictor, options: Namespace) -> dict[str, Any]:
    """Describe everything that results depend on, in plain values."""
    sha256 = hashlib.sha256()
    for value in (value for model in predictor.models for value in model.state_dict().values()):
        sha256.update(value.cpu().reshape(-1).view(torch.uint8).numpy().data)
    tta = predictor.tta
    thresholds = list(getattr(predictor.model, "thresholds", ())) or DEFAULT_THRESHOLD
    return {
        "task": task_of(predictor.model),
        "classes": list(predictor.class_names),
        "category_ids": list(predictor.model.category_ids),
        "weights": sha256.hexdigest()[:16],
        "threshold": thresholds if options.threshold is None else options.threshold,
        "tta": [tta.crop_size, list(tta.scales), tta.flip],
        "tiling": [options.tile, tile_overlap(options)],
        "instances": options.instances,
    }


def task_of(model: Model) -> str:
    """Name the task of a model."""
    if isinstance(model, Detector):
        return "detection"
    return "semantic segmentation" if isinstance(model, Segmenter) else "classification"


def _mean_fractions(means: Mapping[str, float]) -> str:
    """Format the mean fraction of each class over the images, the largest first, for a terminal."""
    width = max(map(len, means))
    rows = sorted(means.items(), key=lambda item: -item[1])
    return "\n".join(f"{name:<{width}} {100 * part:5.1f} %" for name, part in rows)
