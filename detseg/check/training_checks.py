"""Checks before training, limited to information that reading the labels gives anyway."""

from __future__ import annotations

import logging
import shlex

import numpy as np

from detseg.data.annotations.detection import DetectionAnnotations, looks_normalized
from detseg.data.modules.base import BaseDataModule
from detseg.errors import DataError

log = logging.getLogger(__name__)

MAX_NORMALIZED = 0.5  # fraction of normalised boxes above which the labels are refused


def check_before_training(data: BaseDataModule[DetectionAnnotations], validates: bool) -> None:
    """Raise DataError for splits without a usable object or with mostly normalised boxes; warn of shared images."""
    splits = {"train": data.train_annotations} | ({"val": data.val_annotations} if validates else {})
    for split, table in splits.items():
        root = table.root
        command = f"detseg check {shlex.quote(str(getattr(data, 'root', root)))}"
        if not (~(table.crowd | table.difficult)).any():
            use = "train on" if split == "train" else "evaluate; to skip validation: `--trainer.limit_val_batches 0`"
            raise DataError(
                f"{root}: the {split} split has {len(table)} images and no object to {use}. "
                f"`{command}` lists what was read and what was left out"
            )
        image_sizes = np.repeat(table.sizes, np.diff(table.offsets), axis=0)
        normalized = looks_normalized(table.boxes, image_sizes)
        if normalized.mean() > MAX_NORMALIZED:
            raise DataError(
                f"{root}: {normalized.sum()} of {len(normalized)} boxes of the {split} split have coordinates from 0 "
                f"to 1 instead of pixels. `{command} --fix NEW_FOLDER` writes a copy in pixels"
            )
    if validates:
        train, val = (
            {str(annotations.path(index)) for index in range(len(annotations))} for annotations in splits.values()
        )
        if shared := sorted(train & val):
            log.warning(
                "%d images are in both the train and the val split, such as %s: validation metrics will be too high",
                len(shared),
                shared[0],
            )
