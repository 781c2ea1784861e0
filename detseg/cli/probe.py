"""`detseg probe`: how well a linear classifier does on the features of each depth of a backbone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jsonargparse import ArgumentParser, Namespace
from PIL import Image

from detseg import data as data_sets
from detseg.analysis.charts import Line, line_chart
from detseg.analysis.embeddings import intrinsic_dimension, knn_accuracy
from detseg.analysis.probing import HELD_OUT, accuracy, at_random, features, spread_depths
from detseg.cli._backbones import backbone_parser, build, check_picture, find_block, parse_backbone, prepare
from detseg.cli._parser import require_minimum
from detseg.data import DetectionDataModule
from detseg.data.modules.crops import (
    ClassificationCrops,
    draw,
    from_annotations,
    from_folder,
    train_val_split,
    with_enough,
)
from detseg.errors import ConfigError, DataError
from detseg.modules.backbones import ConvNet

log = logging.getLogger(__name__)

NEAREST = 5  # neighbours that vote


class Depth(NamedTuple):
    """The number of features at a depth, the accuracy of two classifiers on them, and their intrinsic dimension."""

    features: int
    linear: float
    neighbours: float
    dimension: float


def run(arguments: Sequence[str]) -> None:
    """Train linear classifiers at some depths of a backbone, and of the same backbone with random weights."""
    parser = _parser()
    options = parse_backbone(parser, arguments)
    require_minimum(options, size=32, batch_size=1, min_count=2, max_pictures=2, random=0)
    if not 0 < options.val_fraction < 1:
        raise ConfigError(f"--val_fraction {options.val_fraction:g}: must be above 0 and below 1, such as 0.3")
    check_picture(options.out)
    options = build(parser, options)
    backbone = options.backbone
    depths = spread_depths(backbone)
    if options.depths:
        chosen = [find_block("depths", name.strip(), backbone) for name in options.depths.split(",")]
        depths = [name for name in backbone.block_names if name in chosen]

    train, val = _pictures(options)
    log.info("%d pictures of %d classes to train on, %d to validate", len(train), len(train.classes), len(val))
    trained = _measure(backbone, depths, train, val, options, "trained weights")
    random = []
    for seed in range(options.seed, options.seed + options.random):
        model = prepare(at_random(backbone, seed), next(backbone.parameters()).device)
        measured = _measure(model, depths, train, val, options, f"random weights, seed {seed}")
        random.append([depth.linear for depth in measured])

    guess = float((val.labels == np.bincount(train.labels).argmax()).mean())
    print(_table(depths, trained, random, guess, train.classes[int(np.bincount(train.labels).argmax())]))
    Image.fromarray(_chart(options, backbone, depths, trained, random, guess, len(train.classes))).save(options.out)
    print(f"\nchart: {options.out}")


def _parser() -> ArgumentParser:
    data_sets.import_all()
    parser = backbone_parser(
        "probe",
        "--backbone CLASS --backbone.weights FILE --data FOLDER|NAME.yaml|CLASS [--out FILE.png]",
        Path("probe.png"),
    )
    parser.add_argument(
        "--data",
        type=DetectionDataModule | str,
        required=True,
        sub_configs=True,
        help="A folder with train/CLASS and val/CLASS, or CLASS, or a detection data set, whose objects are cut out.",
    )
    parser.add_argument("--depths", type=str | None, help="Comma-separated blocks; default: about eight.")
    parser.add_argument("--random", type=int, default=3, help="Number of random backbones to compare with.")
    parser.add_argument("--min_count", type=int, default=10, help="Smallest number of training images of a class.")
    parser.add_argument("--val_fraction", type=float, default=0.3, help="Validation part of folders without a split.")
    parser.add_argument(
        "--max_pictures", type=int, default=4000, help="Largest number of images of each split, 0.3 MB each."
    )
    parser.add_argument("--batch_size", type=int, default=32, help="Images per batch.")
    return parser


def _pictures(options: Namespace) -> tuple[ClassificationCrops, ClassificationCrops]:
    """Return the training and the validation images. Raises DataError if there are too few."""
    if isinstance(options.data, str):
        root = Path(options.data)
        if not root.is_dir():
            raise DataError(
                f"--data {root}: neither a folder with class folders nor a data set; "
                "for the objects of one: --data VOC --data.root FOLDER, likewise COCO, or a YAML file"
            )
        train, val = from_folder(root, options.val_fraction, options.seed)
    else:
        data: DetectionDataModule = options.data
        train, val = from_annotations(data.train_annotations), from_annotations(data.val_annotations)
    train, val = with_enough(train, val, options.min_count)
    return _at_most(train, 2, options), _at_most(val, 1, options)  # two of a class for the choice of the regularisation


def _at_most(pictures: ClassificationCrops, per_class: int, options: Namespace) -> ClassificationCrops:
    """Sample at most ``max_pictures``, the same part of every class and no fewer than ``per_class``."""
    if len(pictures) <= options.max_pictures:
        return pictures
    kept = draw(pictures.labels, options.max_pictures, per_class, options.seed)
    log.warning("%d of %d pictures are used, because of --max_pictures", len(kept), len(pictures))
    return pictures.take(kept)


def _measure(
    backbone: ConvNet,
    depths: Sequence[str],
    train: ClassificationCrops,
    val: ClassificationCrops,
    options: Namespace,
    what: str,
) -> list[Depth]:
    """Measure each depth."""
    log.info("%s: features of %d pictures", what, len(train) + len(val))
    parts = [features(backbone, part.batches(options.size, options.batch_size), depths) for part in (train, val)]
    held_out = train_val_split(train.labels, HELD_OUT, options.seed)
    measured = []
    for depth in depths:
        first, second = (part.pop(depth) for part in parts)
        linear = accuracy(first, train.labels, second, val.labels, held_out)
        neighbours = knn_accuracy(first, train.labels, second, val.labels, NEAREST)
        measured.append(Depth(first.shape[1], linear, neighbours, intrinsic_dimension(first)))
        log.info("  %s: %.1f %%", depth, 100 * linear)
    return measured


def _statistics(random: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Mean and deviation at each depth over some networks; no deviation of a single one."""
    means = np.mean(random, axis=0)
    deviations = np.std(random, axis=0, ddof=1) if len(random) > 1 else np.zeros(len(means))
    return means.tolist(), deviations.tolist()


def _table(
    depths: Sequence[str],
    trained: Sequence[Depth],
    random: Sequence[Sequence[float]],
    guess: float,
    commonest: str,
) -> str:
    width = max(12, *map(len, depths))
    header = f"{'accuracy, %':<{width}}  numbers  trained" + ("      random" if random else "")
    lines = [f"{header}  {NEAREST}-NN  dimension"]
    means, deviations = _statistics(random) if random else ([], [])
    for row, depth in enumerate(trained):
        line = f"{depths[row]:<{width}}  {depth.features:>7}  {100 * depth.linear:>7.1f}"
        line += f"  {100 * means[row]:>5.1f} ± {100 * deviations[row]:<2.1f}" if random else ""
        lines.append(f"{line}  {100 * depth.neighbours:>4.1f}  {depth.dimension:>9.1f}")
    lines.append(f"always {commonest}: {100 * guess:.1f}")
    return "\n".join(lines)


def _chart(
    options: Namespace,
    backbone: ConvNet,
    depths: Sequence[str],
    trained: Sequence[Depth],
    random: Sequence[Sequence[float]],
    guess: float,
    classes: int,
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    lines = [Line("trained weights", [depth.linear for depth in trained])]
    lines.append(Line(f"their {NEAREST} nearest neighbours", [depth.neighbours for depth in trained]))
    if random:
        means, deviations = _statistics(random)
        seeds = f", mean and deviation of {len(random)}" if len(random) > 1 else ""
        lines.append(Line(f"random weights{seeds}", means, deviations))
    lines.append(Line("always the commonest class", [guess] * len(depths), dashed=True))
    source = Path(options.data if isinstance(options.data, str) else getattr(options.data, "root", "synthetic shapes"))
    title = f"Linear classifiers on {backbone.name}: {classes} classes of {source.resolve().name}"
    return line_chart(
        title, depths, lines, "features after the block, the first to the last", "accuracy, %", (960, 540)
    )
