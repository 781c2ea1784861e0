"""Checks before training, limited to information that reading the labels gives anyway."""

from __future__ import annotations

import logging
import shlex

import numpy as np

from detseg.check.label_checks import describe_all_void, describe_no_objects
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import log_issues
from detseg.data.annotations.semantic import LabelFiles, SemanticAnnotations, read_semantic_mask
from detseg.data.formats.base import WHOLE
from detseg.data.formats.unused import unused_images
from detseg.data.modules.base import BaseDataModule
from detseg.errors import DataError
from detseg.plural import counted

log = logging.getLogger(__name__)

MASKS = 20  # to look into


def check_masks_before_training(data: BaseDataModule[SemanticAnnotations]) -> None:
    """Raise DataError if the first semantic masks show one class alone. All of them are read only in training."""
    table, used = data.train_annotations, set[int]()
    if isinstance(table.maps, LabelFiles):
        for row in table.rows[:MASKS].tolist():
            used |= set(np.unique(read_semantic_mask(table.maps.source(row))).tolist())
        if message := describe_all_void(table, used):
            raise DataError(message)


def check_before_training(data: BaseDataModule[DetectionAnnotations], validates: bool) -> None:
    """Raise DataError for splits without an object to learn from; log what no split uses, and shared images."""
    splits = {"train": data.train_annotations} | ({"val": data.val_annotations} if validates else {})
    for split, table in splits.items():
        if message := describe_no_objects(split, table):
            hint = "" if split == "train" else "; to skip validation: `--trainer.limit_val_batches 0`"
            command = f"detseg check {shlex.quote(str(getattr(data, 'root', table.root)))}"
            raise DataError(f"{message}{hint}. `{command}` lists what was read and what was left out")
    if set(data.source.splits) <= {WHOLE, *splits}:
        log_issues(data.source.tree.root, unused_images(data.source, splits.values()))
    if validates:
        train, val = (
            {str(annotations.path(index)) for index in range(len(annotations))} for annotations in splits.values()
        )
        if shared := sorted(train & val):
            log.warning(
                "the train and the val split share %s, such as %s: validation metrics will be too high",
                counted(len(shared), "image"),
                shared[0],
            )
