"""What is looked at before a training: only what is known anyway once the labels are read."""

from __future__ import annotations

import logging
import shlex

import numpy as np

from detseg.data.annotations.detection import DetectionAnnotations, looks_normalized
from detseg.data.modules.base import BaseDataModule
from detseg.errors import DataError

log = logging.getLogger(__name__)

MANY = 0.5  # share of the boxes of which something makes the whole meaningless


def look_before_training(data: BaseDataModule[DetectionAnnotations], validates: bool) -> None:
    """Raise DataError for labels from which nothing can be learnt, or on which nothing can be measured."""
    parts = {"train": data.train_annotations} | ({"val": data.val_annotations} if validates else {})
    for split, part in parts.items():
        command = f"detseg check {shlex.quote(str(getattr(data, 'root', part.root)))}"
        way_on = f"`{command}` says what was found and what was left out"
        if not (~(part.crowd | part.difficult)).any():
            what = "learn from" if split == "train" else "measure by; without it: `--trainer.limit_val_batches 0`"
            raise DataError(f"{part.root}: the {split} part has {len(part)} images and no object to {what}. {way_on}")
        sizes = np.repeat(part.sizes, np.diff(part.offsets), axis=0)
        shares = looks_normalized(part.boxes, sizes)
        if shares.mean() > MANY:
            raise DataError(
                f"{part.root}: {shares.sum()} of {len(shares)} boxes of the {split} part go from 0 to 1, where pixels "
                f"are meant. `{command} --fix NEW_FOLDER` writes a copy in pixels"
            )
    if "val" in parts:
        train, val = ({str(part.path(row)) for row in range(len(part))} for part in parts.values())
        if both := sorted(train & val):
            log.warning(
                "%d images are trained and measured on, such as %s: figures will be too good", len(both), both[0]
            )
