"""What label files say, object by object, before anything is left out: readers fill it, `detseg check` looks at it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations, pack
from detseg.data.faults import Report
from detseg.data.images import image_size
from detseg.errors import DataError

Box = tuple[float, float, float, float]


@dataclass
class Table:
    """I images and N objects in any order, boxes as labelled; the fields are those of ``pack`` and two more."""

    source: Path
    root: Path
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    files: NDArray[np.str_]  # (I,)
    image_ids: NDArray[Any]  # (I,)
    sizes: NDArray[np.int32]  # (I, 2) height and width; 0 where the image does not give them either
    rows: NDArray[np.int64]  # (N,) of the image
    boxes: NDArray[np.float64]  # (N, 4) xyxy
    labels: NDArray[np.int64]  # (N,)
    ids: NDArray[np.int64]  # (N,)
    areas: NDArray[np.float64]  # (N,) NaN where the box gives it
    crowd: NDArray[np.bool_]  # (N,)
    difficult: NDArray[np.bool_]  # (N,)
    points: NDArray[np.int64]  # (N,) corners of the smallest polygon; -1 where there is none
    origins: Sequence[str] = ()  # file and entry of each object; by default the annotation's id

    def pack(self) -> Annotations:
        """The annotations to train on and to measure with."""
        fields = {name: value for name, value in vars(self).items() if name not in ("points", "origins")}
        return pack(**fields)


class Builder:
    """Gathers images and objects as a reader meets them."""

    def __init__(self, source: Path, root: Path, report: Report) -> None:
        self.source, self.root, self.report = source, root, report
        self.files: list[str] = []
        self.image_ids: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self.rows: list[int] = []
        self.names: list[str] = []
        self.boxes: list[Box] = []
        self.areas: list[float] = []
        self.crowd: list[bool] = []
        self.difficult: list[bool] = []
        self.points: list[int] = []
        self.origins: list[str] = []

    def image(self, file: str, size: tuple[int, int] | None = None, image_id: str | None = None) -> int:
        """Add an image by its path below the root, and return its row. A size that is not given is the file's."""
        self.files.append(file)
        self.image_ids.append(os.path.splitext(file)[0] if image_id is None else image_id)
        self.sizes.append(size or known_size(self.root / file, self.report))
        return len(self.files) - 1

    def add(
        self,
        row: int,
        name: str,
        box: Box,
        origin: tuple[object, str],
        area: float = math.nan,
        crowd: bool = False,
        difficult: bool = False,
        points: int = -1,
    ) -> None:
        """Add an object, with the file and the entry that it stands in."""
        self.rows.append(row)
        self.names.append(name)
        self.boxes.append(box)
        self.areas.append(area)
        self.crowd.append(crowd)
        self.difficult.append(difficult)
        self.points.append(points)
        self.origins.append(f"{origin[0]}\t{origin[1]}")

    def table(self, category_ids: Mapping[str, int] | None = None) -> Table:
        """What was gathered. Without ``category_ids`` the classes are the names found, sorted, numbered from 1."""
        if category_ids is None:
            category_ids = {name: number for number, name in enumerate(sorted(set(self.names)), start=1)}
        label = {name: position for position, name in enumerate(category_ids)}
        return Table(
            source=self.source,
            root=self.root,
            classes=tuple(category_ids),
            category_ids=tuple(category_ids.values()),
            files=np.array(self.files, dtype=np.str_),
            image_ids=np.array(self.image_ids, dtype=np.str_),
            sizes=np.array(self.sizes, dtype=np.int32).reshape(-1, 2),
            rows=np.array(self.rows, dtype=np.int64),
            boxes=np.array(self.boxes, dtype=np.float64).reshape(-1, 4),
            labels=np.array([label[name] for name in self.names], dtype=np.int64),
            ids=np.arange(1, len(self.rows) + 1),
            areas=np.array(self.areas, dtype=np.float64),
            crowd=np.array(self.crowd, dtype=bool),
            difficult=np.array(self.difficult, dtype=bool),
            points=np.array(self.points, dtype=np.int64),
            origins=self.origins,
        )


class Source(NamedTuple):
    """A data set that was found in a folder: its format, and how each of its parts is read."""

    format: str
    place: Path  # the label file or folder that tells
    parts: Mapping[str, Callable[[Report], Table]]  # by "train", "val", "test", or "all" where it is not split
    numbered: bool = False  # whether its classes have numbers of their own


def known_size(path: Path, report: Report) -> tuple[int, int]:
    """Height and width of an image. A check goes on with (0, 0), since it looks at each image itself."""
    try:
        return image_size(path)
    except DataError:
        if report.gathers:
            return 0, 0
        raise


def polygon_box(points: Sequence[tuple[float, float]]) -> Box:
    """The smallest box around points."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def polygon_area(points: Sequence[tuple[float, float]]) -> float:
    """Area inside a polygon, by the shoelace formula."""
    following = [*points[1:], *points[:1]]
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(points, following, strict=True))) / 2
