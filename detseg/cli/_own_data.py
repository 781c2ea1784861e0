"""The default configuration if only data is given: image size and epochs are chosen from the labels."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detseg.check.statistics import MAX_LONG_EDGE, MIN_IOU, best_anchor_ious
from detseg.cli._configs import find_config, for_other_data, is_data, value_of
from detseg.cli._parser import instantiate, make_parser, parse
from detseg.data import DetectionDataModule
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.errors import DataError
from detseg.plural import counted

log = logging.getLogger(__name__)

CONFIG, BATCH_SIZE, EPOCHS = "faster_rcnn_mobilenet_v2.yaml", 4, 12  # the batch and the epochs are the file's
SIDES = (320, 416, 512, 640, 800)  # short edges of images, the file's first
COVERAGE = 0.95  # fraction of the objects that an anchor has to overlap
OWN_MODEL = ("--config=", "--model=", "--model.class_path=")  # other settings of the model apply to that of CONFIG
MIN_STEPS = 480  # of a training: 12 epochs of 160 images
OTHERS = (
    "Without --config, a folder must have boxes; for masks, segmentation and classification name a configuration, such "
    "as mask_rcnn_mobilenet_v2.yaml, fcn8s_mobilenet_v2_camvid.yaml or resnet50_imagenet.yaml"
)


def with_own_config(arguments: Sequence[str]) -> list[str]:
    """Return ``arguments`` of ``find_configs``, with a configuration if they name data and neither it nor a model.

    Every setting that is chosen comes before ``arguments``, so that these overwrite it. Raises DataError for a folder
    without boxes.
    """
    data = value_of("data", arguments)
    if data is None or not is_data(Path(data)) or any(one.startswith(OWN_MODEL) for one in arguments):
        return list(arguments)
    parser = make_parser("train", "")
    parser.add_subclass_arguments(DetectionDataModule, "data", required=True)
    of_data = [one for one in for_other_data(arguments, DetectionDataModule) if one.startswith("--data")]
    try:
        table = instantiate(parser, parse(parser, of_data)).data.train_annotations
    except DataError as error:
        raise DataError(f"{error}. {OTHERS}") from error
    side, coverage = choose_side(table)
    steps = -(-len(table) // max(1, _number("data.batch_size", arguments, BATCH_SIZE)))
    epochs = _number("trainer.max_epochs", arguments, max(EPOCHS, -(-MIN_STEPS // steps)))
    log.info(
        "no --config: using %s, which a CPU can train; a short edge of %d pixels, at which anchors cover %.0f %% of "
        "the objects (--data.transforms.Resize.size); %s of %s (--trainer.max_epochs)",
        *(CONFIG, side, 100 * coverage, counted(epochs, "epoch"), counted(steps, "step")),
    )
    resize = {"class_path": "Resize", "init_args": {"size": side, "max_size": round(side * MAX_LONG_EDGE)}}
    return [
        f"--config={find_config(CONFIG)}",
        f"--data.transforms={json.dumps([resize, 'RandomHorizontalFlip'])}",
        f"--trainer.max_epochs={epochs}",
        f"--trainer.check_val_every_n_epoch={max(1, epochs // EPOCHS)}",
        f"--task.schedule.milestones={[2 * epochs // 3, 11 * epochs // 12]}",  # those of 12 epochs are 8 and 11
        *arguments,
    ]


def _number(key: str, arguments: Sequence[str], default: int) -> int:
    """Return the number that an option is set to; ``default`` for none, "auto", or what the parser will refuse."""
    value = value_of(key, arguments[::-1]) or ""
    return int(value) if value.isdecimal() else default


def choose_side(table: DetectionAnnotations) -> tuple[int, float]:
    """Choose the short edge to resize images to; return it and the fraction of the objects that anchors cover.

    It is the smallest of SIDES at which that is COVERAGE, else the one with the highest, without enlarging images.
    """
    sizes = np.repeat(table.sizes, np.diff(table.offsets), axis=0)
    limit = max(SIDES[0], float(np.median(table.sizes.min(axis=1))))
    best = (SIDES[0], 0.0)
    for side in (side for side in SIDES if side <= limit and len(table.boxes)):
        coverage = float((best_anchor_ious(table.boxes, sizes, side) >= MIN_IOU).mean())
        if coverage > best[1]:
            best = (side, coverage)
        if coverage >= COVERAGE:
            break
    return best
