"""Conversion of data sets between formats; annotations that the target cannot represent are counted."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import log_issues
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.base import ConversionReport, DatasetFormat, DatasetSource
from detseg.data.formats.unused import unused_images
from detseg.data.formats.writing import copy_image, link_image
from detseg.errors import DataError

log = logging.getLogger(__name__)


def convert(
    source: DatasetSource, to: DatasetFormat, out: Path, masks: bool = True, copy: bool = False
) -> ConversionReport:
    """Write all splits of a data set to a folder ``out``, which must be empty or new, in the format ``to``.

    Images are hard links where possible, or copies with ``copy``; ``masks`` are written where the format holds them.
    Boxes, names and flags that the report does not count stay as they are, to a billionth of a pixel. Raises DataError
    for missing or broken labels, and if ``out`` is not empty.
    """
    reading: MaskReading = "any" if masks else "none"
    splits = {split: cast("DetectionAnnotations", source.read(split, reading)) for split in source.splits}
    for table in splits.values():
        table.require_images()
    log_issues(source.tree.root, [*source.issues, *unused_images(source, splits.values())])
    return write_splits(splits, to, out, source.has_category_ids, masks=masks, copy=copy)


def write_splits(
    splits: Mapping[str, DetectionAnnotations],
    to: DatasetFormat,
    out: Path,
    has_category_ids: bool,
    masks: bool = True,
    copy: bool = False,
) -> ConversionReport:
    """Write tables of annotations as ``convert`` does; without ``has_category_ids`` the classes are numbered from 1."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is there already, and nothing is overwritten; give a new folder")
    splits = _same_classes(splits, has_category_ids)
    if not masks:
        splits = {split: replace(table, masks=None) for split, table in splits.items()}
    if any(table.orientation == "stored" for table in splits.values()):
        log.warning("%s: its labels are for the images as stored: read it with `format.orientation='stored'`", out)
    out.mkdir(parents=True, exist_ok=True)
    return to.write(splits, out, copy_image if copy else link_image)


def _same_classes(
    splits: Mapping[str, DetectionAnnotations], has_category_ids: bool
) -> dict[str, DetectionAnnotations]:
    """Number the classes of all splits alike: a split may lack some."""
    ids: dict[str, int] = {}
    for table in splits.values():
        for name, number in zip(table.classes, table.category_ids, strict=True):
            ids.setdefault(name, number)
    if not has_category_ids:
        ids = {name: number for number, name in enumerate(sorted(ids), start=1)}
    return {
        split: replace(table.relabel(list(ids)), category_ids=tuple(ids.values())) for split, table in splits.items()
    }
