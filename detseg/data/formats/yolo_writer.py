"""Writer of YOLO data sets."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from detseg.data.annotations.contours import Points, concat_contours, make_clockwise, trace_contours
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.images import image_size
from detseg.data.annotations.masks import NONE, POLYGONS, concat_masks, pack_polygons
from detseg.data.formats.base import WHOLE, ConversionReport
from detseg.data.formats.writing import image_names
from detseg.errors import DataError


def write_yolo(
    splits: Mapping[str, DetectionAnnotations], out: Path, place: Callable[[Path, Path], None]
) -> ConversionReport:
    """Write images/SPLIT, labels/SPLIT and data.yaml. Raises DataError for images of another size than labelled."""
    names = image_names(splits)
    losses: Counter[str] = Counter()
    classes = next(iter(splits.values())).classes
    settings: dict[str, Any] = {"train": "images", "val": "images"} if WHOLE in splits else {}
    for split, table in splits.items():
        folder = "" if split == WHOLE else f"/{split}"
        settings |= {split: f"images{folder}"} if folder else {}
        (out / f"labels{folder}").mkdir(parents=True, exist_ok=True)
        if table.category_ids != tuple(range(len(table.classes))):
            losses["classes lose their category ids"] = len(table.classes)
        for index, name in enumerate(names[split]):
            place(table.path(index), out / f"images{folder}" / name)
            height, width = table.sizes[index].tolist()
            if image_size(table.path(index)) != (height, width):
                raise DataError(
                    f"{table.path(index)}: is not {width}x{height} as its labels say, turned as its EXIF orientation "
                    "says; YOLO's numbers are fractions of the image: turn the picture or correct the labels"
                )
            objects = range(*table.objects(index).indices(len(table.labels)))
            lines = [_line(table, i, height, width, losses) for i in objects]
            file = out / f"labels{folder}" / f"{os.path.splitext(name)[0]}.txt"
            file.write_text("".join(f"{line}\n" for line in lines if line), encoding="utf-8")
    settings["names"] = dict(enumerate(classes))
    (out / "data.yaml").write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return ConversionReport(losses)


def _line(table: DetectionAnnotations, i: int, height: int, width: int, losses: Counter[str]) -> str:
    """Format the line of an object: its class, and its box or polygon as fractions of the image; empty for a crowd."""
    if table.crowd[i]:
        losses["crowds are left out"] += 1
        return ""
    if table.difficult[i]:
        losses["difficult objects become objects like others"] += 1
    x1, y1, x2, y2 = box = table.boxes[i].tolist()
    numbers = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
    if table.masks is not None and table.masks.mask_types[i] != NONE:
        points = _polygon(table, i, height, width, losses)
        if np.abs([*points.min(axis=0), *points.max(axis=0)] - np.array(box)).max() > 10**-6:
            losses["boxes become those around their polygons"] += 1
        numbers = (points / (width, height)).ravel().tolist()
    elif table.masks is not None:
        losses["objects without a mask are boxes among polygons"] += 1
    if min(numbers) < 0 or max(numbers) > 1:
        losses["labels reach beyond their image, which other programs refuse"] += 1
    return " ".join([str(table.labels[i]), *map(repr, numbers)])


def _polygon(table: DetectionAnnotations, i: int, height: int, width: int, losses: Counter[str]) -> Points:
    """Convert the mask of an object to one polygon that covers the same pixels."""
    masks = table.masks
    assert masks is not None
    if masks.mask_types[i] == POLYGONS:
        parts = [polygon.reshape(-1, 2) for polygon in masks.polygons(i)]
        if len(parts) == 1:
            return parts[0]
        losses["polygons of several parts become one, with bridges of no width"] += 1
        whole = concat_contours([make_clockwise(part) for part in parts])
        drawn = concat_masks([(POLYGONS, pack_polygons([whole.ravel().tolist()]))])
        if drawn.rle(0, height, width) == masks.rle(i, height, width):
            return whole
    else:
        losses["RLE become polygons along the edges of pixels"] += 1
    contours = trace_contours(next(masks.draw(np.array([i]), height, width)))
    if not contours:
        file = table.path(int(np.searchsorted(table.offsets, i, side="right")) - 1)
        raise DataError(
            f"{file}: annotation {table.ids[i]} has a mask without a pixel; correct it, or leave masks out with "
            "`masks='none'`"
        )
    return concat_contours(contours)
