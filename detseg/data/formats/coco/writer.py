"""Writer of COCO data sets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.formats.base import WHOLE, ConversionReport
from detseg.data.formats.writing import DIGITS, image_names


def write_coco(
    splits: Mapping[str, DetectionAnnotations], out: Path, place: Callable[[Path, Path], None]
) -> ConversionReport:
    """Write annotations/instances_SPLIT.json and images/SPLIT."""
    names = image_names(splits)
    losses: Counter[str] = Counter()
    (out / "annotations").mkdir()
    for split, table in splits.items():
        folder = "images" if split == WHOLE else f"images/{split}"
        numbers = table.image_ids.tolist()
        if table.image_ids.dtype.kind not in "iu":
            numbers = list(range(1, len(table) + 1))
            losses["images get numbers, since their ids are not"] += len(table)
        images, objects = [], []
        for index, (number, name) in enumerate(zip(numbers, names[split], strict=True)):
            place(table.path(index), out / folder / name)
            height, width = table.sizes[index].tolist()
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            for i in range(*table.objects(index).indices(len(table.labels))):
                objects.append({**_annotation(table, i, height, width), "image_id": number})
        ids = zip(table.category_ids, table.classes, strict=True)
        categories = [{"id": number, "name": name} for number, name in ids]
        content = {"images": images, "annotations": objects, "categories": categories}
        ending = "" if split == WHOLE else f"_{split}"
        (out / "annotations" / f"instances{ending}.json").write_text(json.dumps(content), encoding="utf-8")
    return ConversionReport(losses)


def _annotation(table: DetectionAnnotations, i: int, height: int, width: int) -> dict[str, Any]:
    x1, y1, x2, y2 = table.boxes[i].tolist()
    entry = {
        "id": int(table.ids[i]),
        "category_id": table.category_ids[table.labels[i]],
        "bbox": [round(value, DIGITS) for value in (x1, y1, x2 - x1, y2 - y1)],
        "area": round(float(table.areas[i]), DIGITS),
        "iscrowd": int(table.crowd[i]),
    }
    if table.difficult[i]:
        entry["difficult"] = 1  # not a key of COCO, whose programs ignore it; ``CocoFormat`` reads it
    mask = None if table.masks is None else table.masks.segmentation(i, height, width)
    if isinstance(mask, list):
        mask = [[round(value, DIGITS) for value in part] for part in mask]
    return entry if mask is None else entry | {"segmentation": mask}
