"""Small data sets that tests write to a folder."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detseg.data.annotations.detection import DetectionAnnotations, ImageColumns, ObjectColumns, from_columns
from detseg.data.annotations.issues import IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.base import DatasetSource

# For tests whose file names have accents, which the C locale without Python's UTF-8 mode cannot encode.
accents = pytest.mark.skipif(sys.getfilesystemencoding() != "utf-8", reason="file names are ASCII in this locale")


def image(path: Path, height: int = 48, width: int = 64, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))
    return path


def coco(file: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]], names: dict[int, str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    categories = [{"id": number, "name": name} for number, name in names.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def simple_coco(file: Path, images: Path, count: int = 1, names: dict[int, str] | None = None) -> Path:
    """One object in each of ``count`` images, which are written as well."""
    entries = [{"id": i, "file_name": f"{i}.png", "height": 48, "width": 64} for i in range(count)]
    for entry in entries:
        image(images / entry["file_name"], seed=entry["id"])
    objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": [4, 6, 20, 30]} for i in range(count)]
    return coco(file, entries, objects, names or {1: "cat", 2: "dog"})


def voc(root: Path, stem: str, body: str, size: str = "<width>64</width><height>48</height>") -> Path:
    """An annotation file with the objects of ``body``, and its image."""
    image(root / "JPEGImages" / f"{stem}.jpg", seed=zlib.crc32(stem.encode()))  # so that no two are the same
    file = root / "Annotations" / f"{stem}.xml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"<annotation><size>{size}</size>{body}</annotation>", encoding="utf-8")
    return file


def box(name: str, x1: float, y1: float, x2: float, y2: float, more: str = "") -> str:
    return (
        f"<object><bndbox><ymax>{y2}</ymax><xmin>{x1}</xmin><xmax>{x2}</xmax><ymin>{y1}</ymin></bndbox>"
        f"<name>{name}</name>{more}</object>"
    )


def annotations(counts: Sequence[int], classes: int = 3, seed: int = 0) -> DetectionAnnotations:
    """Random objects, ``counts`` of them in each image."""
    generator = np.random.default_rng(seed)
    total = sum(counts)
    corners = generator.uniform(0, 40, (total, 2))
    images = ImageColumns(
        root=Path("folder"),
        files=[f"{i}.jpg" for i in range(len(counts))],
        ids=np.arange(len(counts)) + 100,
        sizes=np.tile(np.array([[50, 60]], dtype=np.int32), (len(counts), 1)),
    )
    objects = ObjectColumns(
        image_index=np.repeat(np.arange(len(counts)), counts),
        boxes=np.concatenate([corners, corners + generator.uniform(1, 9, (total, 2))], axis=1),
        labels=generator.integers(classes, size=total),
        ids=np.arange(total) + 1000,
        crowd=generator.random(total) < 0.2,
        difficult=generator.random(total) < 0.2,
    )
    return from_columns(Path("made"), {f"class{i}": 10 * i + 3 for i in range(classes)}, images, objects)


def reported(source: DatasetSource, split: str = "all", masks: MaskReading = "none") -> str:
    """The messages that a check reports of a split, a line each."""
    issues = IssueCollector()
    source.read(split, masks, issues)
    return "\n".join(issue.message for issue in issues.issues)
