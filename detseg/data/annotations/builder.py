"""Annotations as readers meet them in label files: image by image, object by object."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from detseg.data.annotations.detection import DetectionAnnotations, pack
from detseg.data.annotations.images import image_size
from detseg.data.annotations.issues import AnnotationError
from detseg.data.annotations.masks import NONE, POLYGONS, RLE, concat_masks, pack_polygons

Box = tuple[float, float, float, float]


class Builder:
    """Gathers images and objects as a reader meets them."""

    def __init__(self, source: Path, root: Path) -> None:
        self.source, self.root = source, root
        self.files: list[str] = []
        self.image_ids: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self.rows: list[int] = []
        self.names: list[str] = []
        self.boxes: list[Box] = []
        self.areas: list[float] = []
        self.crowd: list[bool] = []
        self.masks: list[tuple[int, bytes]] = []

    def image(self, file: str, size: tuple[int, int] | None = None, image_id: str | None = None) -> int:
        """Add an image by its path below the root, and return its row. A size that is not given is the file's."""
        self.files.append(file)
        self.image_ids.append(os.path.splitext(file)[0] if image_id is None else image_id)
        self.sizes.append(size or image_size(self.root / file))
        return len(self.files) - 1

    def add(
        self,
        row: int,
        name: str,
        box: Box,
        area: float = math.nan,
        polygon: Sequence[tuple[float, float]] | None = None,
        runs: bytes | None = None,
        crowd: bool = False,
    ) -> None:
        """Add an object of an image, whose mask is a polygon or the text of run lengths; by default its area is that of
        the box.

        Raises Flaw for a polygon that is none.
        """
        mask = (NONE, b"") if runs is None else (RLE, runs)
        try:
            if polygon:
                mask = (POLYGONS, pack_polygons([[x for point in polygon for x in point]]))
        except ValueError as error:
            raise AnnotationError("mask-broken", str(error)) from None
        self.rows.append(row)
        self.names.append(name)
        self.boxes.append(box)
        self.areas.append(area)
        self.crowd.append(crowd)
        self.masks.append(mask)

    def annotations(self, category_ids: Mapping[str, int] | None = None) -> DetectionAnnotations:
        """What was gathered. Without ``category_ids`` the classes are the names found, sorted, numbered from 1."""
        if category_ids is None:
            category_ids = {name: number for number, name in enumerate(sorted(set(self.names)), start=1)}
        label = {name: position for position, name in enumerate(category_ids)}
        return pack(
            self.source,
            classes=tuple(category_ids),
            category_ids=tuple(category_ids.values()),
            root=self.root,
            files=np.array(self.files, dtype=np.str_),
            image_ids=np.array(self.image_ids, dtype=np.str_),
            sizes=np.array(self.sizes, dtype=np.int32).reshape(-1, 2),
            rows=np.array(self.rows, dtype=np.int64),
            boxes=np.array(self.boxes, dtype=np.float64).reshape(-1, 4),
            labels=np.array([label[name] for name in self.names], dtype=np.int64),
            ids=np.arange(1, len(self.rows) + 1),
            areas=np.array(self.areas, dtype=np.float64),
            crowd=np.array(self.crowd, dtype=bool),
            masks=concat_masks(self.masks) if any(kind for kind, _ in self.masks) else None,
        )


class Source(NamedTuple):
    """A data set that was found in a folder: its format, and how each of its parts is read."""

    format: str
    place: Path  # the label file or folder that tells
    parts: Mapping[str, Callable[[], DetectionAnnotations]]  # by "train", "val", "test", or "all" where it is not split
    numbered: bool = False  # whether its classes have numbers of their own


def polygon_box(points: Sequence[tuple[float, float]]) -> Box:
    """The smallest box around points."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def polygon_area(points: Sequence[tuple[float, float]]) -> float:
    """Area inside a polygon, by the shoelace formula."""
    following = [*points[1:], *points[:1]]
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(points, following, strict=True))) / 2
