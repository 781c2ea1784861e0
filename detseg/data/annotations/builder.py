"""Build annotations image by image and object by object, in the order of label files."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.detection import DetectionAnnotations, ImageColumns, ObjectColumns, from_columns
from detseg.data.annotations.images import ImageSizes, Orientation
from detseg.data.annotations.issues import FAIL_FAST, AnnotationError, IssueCollector
from detseg.data.annotations.masks import NONE, POLYGONS, RLE, concat_masks, pack_polygons
from detseg.ops.rle import MaskWindow, encode, to_string

Box = tuple[float, float, float, float]


class Builder:
    """Collects images and objects for ``DetectionAnnotations``."""

    def __init__(
        self, source: Path, root: Path, issues: IssueCollector = FAIL_FAST, orientation: Orientation = "shown"
    ) -> None:
        self.source, self.root, self.issues = source, root, issues
        self.image_sizes = ImageSizes(root, issues, orientation)
        self.files: list[str] = []
        self.image_ids: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self.image_index: list[int] = []
        self.names: list[str] = []
        self.boxes: list[Box] = []
        self.areas: list[float] = []
        self.crowd: list[bool] = []
        self.masks: list[tuple[int, bytes]] = []

    def image(self, file: str, size: tuple[int, int] | None = None, image_id: str | None = None) -> int:
        """Add an image by its path below the root, and return its index. By default its size is read from the file.

        Then the labels are for the image as viewers show it, or with ``orientation`` "stored" as its pixels are stored.
        """
        size = size or self.image_sizes.read(file)
        self.files.append(file)
        self.image_ids.append(os.path.splitext(file)[0] if image_id is None else image_id)
        self.sizes.append(size)
        return len(self.files) - 1

    def add(
        self,
        image: int,
        name: str,
        box: Box,
        area: float = math.nan,
        mask: Sequence[tuple[float, float]] | bytes | None = None,
        crowd: bool = False,
    ) -> None:
        """Add an object of an image. ``mask`` is a polygon, or a COCO RLE string; ``area`` defaults to that of the box.

        Raises AnnotationError for an invalid polygon.
        """
        packed = (RLE, mask) if isinstance(mask, bytes) else (NONE, b"")
        try:
            if mask and not isinstance(mask, bytes):
                packed = (POLYGONS, pack_polygons([[x for point in mask for x in point]]))
        except ValueError as error:
            raise AnnotationError("label-broken", str(error)) from None
        self.image_index.append(image)
        self.names.append(name)
        self.boxes.append(box)
        self.areas.append(area)
        self.crowd.append(crowd)
        self.masks.append(packed)

    def add_instances(
        self, image: int, numbers: NDArray[Any], classify: Callable[[int], tuple[str, bool] | None]
    ) -> None:
        """Add the objects of an image in the order of their numbers (h, w).

        ``classify`` maps a number to its class name and crowd flag, or None if it is not of an object.
        """
        from scipy.ndimage import find_objects

        height, width = numbers.shape
        counts = np.bincount(numbers.ravel())
        objects = {number: meaning for number in np.flatnonzero(counts).tolist() if (meaning := classify(number))}
        position = np.zeros(len(counts), dtype=np.int32)
        position[list(objects)] = np.arange(1, len(objects) + 1)
        places = position[numbers]
        for (number, (name, crowd)), (down, across) in zip(objects.items(), find_objects(places), strict=True):
            inside = places[down, across] == position[number]
            rle = to_string(encode(MaskWindow(across.start, down.start, inside.T), height, width))
            box = (float(across.start), float(down.start), float(across.stop), float(down.stop))
            self.add(image, name, box, float(counts[number]), rle, crowd)

    def annotations(self, category_ids: Mapping[str, int] | None = None) -> DetectionAnnotations:
        """Build the table. The classes default to the sorted names of the objects, with ids from 1."""
        if category_ids is None:
            category_ids = {name: number for number, name in enumerate(sorted(set(self.names)), start=1)}
        self.image_sizes.report(self.source, [self.files[index] for index in self.image_index], self.boxes)
        label = {name: position for position, name in enumerate(category_ids)}
        images = ImageColumns(
            root=self.root,
            files=np.array(self.files, dtype=np.str_),
            ids=np.array(self.image_ids, dtype=np.str_),
            sizes=np.array(self.sizes, dtype=np.int32).reshape(-1, 2),
        )
        objects = ObjectColumns(
            image_index=np.array(self.image_index, dtype=np.int64),
            boxes=np.array(self.boxes, dtype=np.float64).reshape(-1, 4),
            labels=np.array([label[name] for name in self.names], dtype=np.int64),
            ids=np.arange(1, len(self.image_index) + 1),
            areas=np.array(self.areas, dtype=np.float64),
            crowd=np.array(self.crowd, dtype=bool),
            masks=concat_masks(self.masks) if any(kind for kind, _ in self.masks) else None,
        )
        return from_columns(self.source, category_ids, images, objects, self.issues)


def polygon_box(points: Sequence[tuple[float, float]]) -> Box:
    """Bounding box of points."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def rotated_boxes(boxes: NDArray[np.float64], degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes (N, 4) around boxes that are rotated about their centres by ``degrees`` (N,)."""
    angles = np.radians(degrees)
    cos, sin = np.abs(np.cos(angles)), np.abs(np.sin(angles))
    centers, (width, height) = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).T
    half = np.stack([width * cos + height * sin, width * sin + height * cos], axis=1) / 2
    return np.concatenate([centers - half, centers + half], axis=1)


def polygon_area(points: Sequence[tuple[float, float]]) -> float:
    """Area inside a polygon, by the shoelace formula."""
    following = [*points[1:], *points[:1]]
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(points, following, strict=True))) / 2
