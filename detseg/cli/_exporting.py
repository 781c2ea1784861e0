"""The frame of an exported model, and images for its proof."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detseg.configurable import from_config
from detseg.errors import ConfigError
from detseg.export.graph import Frame, check_frame, default_frame
from detseg.export.proof_images import ProofImage
from detseg.inference.images import open_image
from detseg.metrics import annotation_targets
from detseg.models.model import Model
from detseg.runtime.predictor import to_frame_size
from detseg.tasks import DetectionTask

log = logging.getLogger(__name__)


def parse_frame(text: str | None, model: Model) -> Frame:
    """Parse ``HEIGHTxWIDTH``, by default the frame of wide images.

    Raises ConfigError for anything else, and for a frame that the model does not take.
    """
    if text is None:
        return check_frame(model, default_frame(model))
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise ConfigError(f"--size {text}: must be a height and a width, such as 800x1344")
    return check_frame(model, (int(match[1]), int(match[2])))


def read_images(paths: Sequence[Path], model: Model, frame: Frame) -> Iterator[ProofImage]:
    """Read images as the runtime does; parts of those beyond the frame are cut off."""
    for path in paths:
        pixels = to_frame_size(open_image(path).pixels, model.preprocessing, frame)
        yield ProofImage(str(path), pixels[: frame[0], : frame[1]])


def validation_images(task: Any, frame: Frame) -> Iterator[ProofImage]:
    """Read the validation images of the training with their objects; none if the data is not there."""
    if not task.data_recipe:
        return
    try:
        data = from_config(task.data_recipe)
        if isinstance(task, DetectionTask) and task.model.needs_masks and data.masks == "none":
            data.masks = "all"
        data.use_classes(task.class_names)
        annotations = data.val_annotations
    except Exception as error:  # the data may have moved, and the file may hold anything
        log.info("no validation images for the proof, but drawn ones: %s", error)
        return
    paths = [annotations.path(row) for row in range(len(annotations))]
    for row, image in enumerate(read_images(paths, task.model, frame)):
        targets = annotation_targets(annotations, [row]) if isinstance(task, DetectionTask) else [None]
        yield image._replace(target=targets[0])
