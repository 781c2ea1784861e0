"""Metrics of parts of the data: by size, shape, crowding, place and columns of the images."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.errors import ConfigError
from detseg.metrics.base import defined_mean
from detseg.metrics.bootstrap import bootstrap_ap
from detseg.metrics.matching import AREAS
from detseg.report.evaluation import DetectionRun

MAX_VALUES = 12  # of a column; the rest is one slice
BORDER = 1.0  # pixels from the edge of the image

Slice = dict[str, Any]


def slices(run: DetectionRun) -> dict[str, list[Slice]]:
    """Recall and best IoU of the objects of each slice, and AP50 of slices of images."""
    truth, sizes = run.truth, run.sizes
    width, height = (truth.boxes[:, 2:] - truth.boxes[:, :2]).T.clip(1e-6)
    aspect = width / height
    limits = np.tile(sizes[truth.images][:, ::-1], 2)
    low, high = truth.boxes[:, :2] <= BORDER, truth.boxes[:, 2:] >= limits[:, 2:] - BORDER
    border = (low | high).any(axis=1)
    of_objects = {
        "size": {
            name: (truth.areas >= low_area) & (truth.areas < high_area)
            for name, (low_area, high_area) in zip(("small", "medium", "large"), AREAS[1:], strict=True)
        },
        "aspect": {"tall": aspect < 0.5, "balanced": (aspect >= 0.5) & (aspect <= 2), "wide": aspect > 2},
        "border": {"touching": border, "inside": ~border},
    }
    counts = np.bincount(truth.images, minlength=len(sizes))
    edge = sizes.max(axis=1)
    of_images = {
        "objects in the image": {
            name: (counts >= low) & (counts <= high)
            for name, low, high in (("1", 1, 1), ("2 to 5", 2, 5), ("6 to 20", 6, 20), ("above 20", 21, 1 << 60))
        },
        "long edge of the image": {
            "below 640": edge < 640,
            "640 to 1280": (edge >= 640) & (edge < 1280),
            "from 1280": edge >= 1280,
        },
        **{name: _column(values) for name, values in run.attributes.items()},
    }
    table = {
        name: [_slice(run, value, chosen) for value, chosen in parts.items()] for name, parts in of_objects.items()
    }
    for name, parts in of_images.items():
        chosen = np.stack([*parts.values()])
        values = bootstrap_ap(truth, run.detections, run.boxes.matches, len(run.classes), chosen.astype(np.float32))
        table[name] = [
            _slice(run, value, images[truth.images]) | {"images": int(images.sum()), "AP50": defined_mean(ap[:, 0])}
            for value, images, ap in zip(parts, chosen, values, strict=True)
        ]
    return {name: [one for one in parts if one["objects"]] for name, parts in table.items()}


def _slice(run: DetectionRun, name: str, chosen: NDArray[np.bool_]) -> Slice:
    boxes = run.boxes
    chosen = chosen & boxes.counted
    detected = np.zeros(len(chosen), dtype=bool)
    detected[boxes.matches.objects[boxes.tp & (boxes.scores >= boxes.threshold)]] = True
    many = int(chosen.sum())
    return {
        "name": name,
        "objects": many,
        "recall": float(detected[chosen].mean()) if many else float("nan"),
        "best IoU": float(boxes.best_iou[chosen].mean()) if many else float("nan"),
    }


def _column(values: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    table = np.array(values, dtype=np.str_)
    names, counts = np.unique(table, return_counts=True)
    common = names[np.argsort(-counts, kind="stable")[:MAX_VALUES]]
    parts = {str(name): table == name for name in common}
    rest = ~np.isin(table, common)
    return parts | ({"other values": rest} if rest.any() else {})


def read_attributes(path: Path, files: Sequence[str]) -> Mapping[str, list[str]]:
    """Read a CSV table of images, whose first column has their file names or stems, for images with these ``files``.

    Raises ConfigError for a file without rows or without any of the images.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = csv.reader(file)
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as a CSV table with a header: {error}") from error
    by_image = {row[0]: row for row in rows if row}
    names = [
        next((name for name in (file, Path(file).name, Path(file).stem) if name in by_image), None) for file in files
    ]
    if not any(names):
        raise ConfigError(
            f"{path}: its first column, {header[0] if header else 'none'}, has none of the evaluated images, "
            f"such as {Path(files[0]).name if files else 'none'}"
        )
    return {
        column: [by_image[name][place] if name and place < len(by_image[name]) else "no value" for name in names]
        for place, column in enumerate(header[1:], 1)
    }
