"""Writer of LabelMe annotations."""

from __future__ import annotations

import base64
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.masks import NONE
from detseg.data.formats.base import WHOLE, ConversionReport
from detseg.data.formats.writing import image_names
from detseg.ops.rle import decode, from_string

VERSION = "5.5.0"  # of LabelMe; earlier ones than 5.3 know no masks


def write_labelme(
    splits: Mapping[str, DetectionAnnotations], out: Path, place: Callable[[Path, Path], None]
) -> ConversionReport:
    """Write each image with a JSON file beside it, in a folder for each split."""
    names = image_names(splits)
    losses: Counter[str] = Counter()
    for split, table in splits.items():
        folder = out if split == WHOLE else out / split
        if table.category_ids != tuple(range(1, len(table.classes) + 1)):
            losses["classes lose their category ids"] = len(table.classes)
        for index, name in enumerate(names[split]):
            place(table.path(index), folder / name)
            height, width = table.sizes[index].tolist()
            objects = range(*table.objects(index).indices(len(table.labels)))
            content = {
                "version": VERSION,
                "flags": {},
                "shapes": [shape for i in objects if (shape := _shape(table, i, height, width, losses))],
                "imagePath": name,
                "imageData": None,
                "imageHeight": height,
                "imageWidth": width,
            }
            (folder / f"{os.path.splitext(name)[0]}.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    labels = np.unique(np.concatenate([table.labels[~table.crowd] for table in splits.values()]))
    losses["classes without an object are forgotten"] = len(next(iter(splits.values())).classes) - len(labels)
    return ConversionReport(losses)


def _shape(table: DetectionAnnotations, i: int, height: int, width: int, losses: Counter[str]) -> dict[str, Any] | None:
    """Format an object as a rectangle, a polygon, or a mask if it has more than one part; None for a crowd."""
    if table.crowd[i]:
        losses["crowds are left out"] += 1
        return None
    if table.difficult[i]:
        losses["difficult objects become objects like others"] += 1
    x1, y1, x2, y2 = table.boxes[i].tolist()
    kind, points, mask = "rectangle", [[x1, y1], [x2, y2]], None
    if table.masks is not None and table.masks.mask_types[i] != NONE:
        parts = table.masks.polygons(i)
        if len(parts) == 1:
            kind, points = "polygon", parts[0].reshape(-1, 2).tolist()
        else:
            inside = decode(from_string(table.masks.rle(i, height, width)), height, width)
            rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
            if len(rows):
                (top, bottom), (left, right) = rows[[0, -1]].tolist(), columns[[0, -1]].tolist()
                kind, points = "mask", [[left, top], [right, bottom]]  # both corners are pixels of the mask
                mask = _png(inside[top : bottom + 1, left : right + 1])
                losses["boxes become those around their masks"] += [left, top, right + 1, bottom + 1] != [
                    x1,
                    y1,
                    x2,
                    y2,
                ]
    return {
        "label": table.classes[table.labels[i]],
        "points": points,
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": mask,
    }


def _png(inside: np.ndarray[Any, np.dtype[np.bool_]]) -> str:
    """Encode a mask (h, w) as a PNG in base64."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(inside).save(content, "png")
    return base64.b64encode(content.getvalue()).decode()
