"""Labels of a detection data set as flat arrays, which worker processes share without copies."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.data.annotations.duplicates import doubled_objects
from detseg.data.annotations.issues import FAIL_FAST, IssueCollector
from detseg.data.annotations.masks import NONE, WITHOUT, MaskReading, Masks, concat_masks, join_masks
from detseg.data.annotations.table import ImageTable
from detseg.errors import DataError, MaskError
from detseg.plural import counted

log = logging.getLogger(__name__)

MIN_CORNERS = 3  # boxes that are no chance
MAX_NORMALIZED = 0.5  # fraction of normalised boxes above which they are no slips
ABSENT = ("has no mask", "has no polygon", "has segmentation = None")  # messages about objects that never had a mask


@dataclass(frozen=True, eq=False)
class DetectionAnnotations(ImageTable):
    """I images with N objects, in original pixels, crowds and difficult objects included.

    The objects of image i are the rows ``offsets[i]`` to ``offsets[i + 1]`` of ``boxes`` and of the arrays after it.
    """

    image_ids: NDArray[Any]  # (I,) int64, or the file stems of VOC
    sizes: NDArray[np.int32]  # (I, 2) height and width, as labelled
    offsets: NDArray[np.int64]  # (I + 1,)
    boxes: NDArray[np.float64]  # (N, 4) xyxy
    labels: NDArray[np.int64]  # (N,) 0..K-1
    areas: NDArray[np.float64]  # (N,) of the mask where there is one, else of the box
    crowd: NDArray[np.bool_]  # (N,)
    difficult: NDArray[np.bool_]  # (N,)
    ids: NDArray[np.int64]  # (N,) number of each object in the data set
    masks: Masks | None = None  # None if they were not read

    def objects(self, image: int) -> slice:
        """Slice of the objects of one image."""
        return slice(int(self.offsets[image]), int(self.offsets[image + 1]))

    def subset(self, indices: ArrayLike) -> DetectionAnnotations:
        """Keep some images with their objects, in the order of ``indices``."""
        images = np.asarray(indices, dtype=np.int64)
        counts = np.diff(self.offsets)[images]
        offsets = _offsets(counts)
        objects = np.arange(offsets[-1]) + np.repeat(self.offsets[images] - offsets[:-1], counts)
        kept = replace(
            self, files=self.files[images], image_ids=self.image_ids[images], sizes=self.sizes[images], offsets=offsets
        )
        return kept._take(objects)

    def describe(self) -> str:
        """Summarise the data set in one line."""
        empty = int((np.diff(self.offsets) == 0).sum())
        images, objects = counted(len(self), "image"), counted(len(self.labels), "object")
        counts = f"{images} ({empty:,} without objects), {objects}, {counted(len(self.classes), 'class')}"
        flags = [f"{n} {name}" for name, n in (("crowd", self.crowd.sum()), ("difficult", self.difficult.sum())) if n]
        return counts + (f" ({', '.join(flags)})" if flags else "")

    def _renumber(self, labels: NDArray[np.int64], unknown: str) -> DetectionAnnotations:
        renumbered = labels[self.labels]
        kept = replace(self, labels=renumbered).where(renumbered >= 0)
        if len(kept.labels) < len(self.labels):
            dropped = len(self.labels) - len(kept.labels)
            log.warning("%s: left out %s of other classes: %s", self.root, counted(dropped, "object"), unknown)
        return kept

    def where(self, kept: NDArray[np.bool_]) -> DetectionAnnotations:
        """Keep the objects for which ``kept`` (N,) is true, and every image."""
        return replace(self, offsets=_offsets(kept)[self.offsets])._take(np.flatnonzero(kept))

    def with_masks(
        self, use: MaskReading, reasons: Mapping[int, str], issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        """Make sure that every object has a mask, if ``use`` asks for it: drop the others, or raise MaskError.

        ``reasons`` tell by the id of an object why it has no mask. A mask without a pixel in its image counts as none.
        Raises MaskError also if no object is left.
        """
        if use == "none" or (use == "any" and (self.masks is None or not issues.collects)):
            return self
        masks = concat_masks([(NONE, b"")] * len(self.labels)) if self.masks is None else self.masks
        without = masks.blank(np.repeat(self.sizes, np.diff(self.offsets), axis=0))
        indices = np.flatnonzero(without)
        messages = [*self._mask_messages(masks, indices if issues.collects else indices[:5], reasons)]
        if issues.collects:
            for file, number, message in messages:
                if message not in ABSENT:
                    path = self.root / file
                    issues.report("mask-broken", path, f"{path} annotation {number} {message}", number)
        if issues.collects or not len(indices):
            return replace(self, masks=masks)
        named = ", ".join(f"{file} annotation {number} {message}" for file, number, message in messages)
        if use == "all":
            never = (masks.mask_types == NONE).all() and {*reasons.values()} <= {*ABSENT}
            hint = WITHOUT if never else "correct them, or leave such objects out with `masks='valid'`"
            count = f"{len(indices)} of {len(self.labels)} objects have no mask that can be used"
            raise MaskError(f"{self.root}: {count}: {named}; {hint}")
        if without.all():
            raise MaskError(
                f"{self.root}: none of {len(indices)} objects has a mask that can be used: {named}; {WITHOUT}"
            )
        left_out = counted(len(indices), "object")
        log.warning("%s: left out %s without a mask that can be used: %s", self.root, left_out, named)
        return self.where(~without)

    def _mask_messages(
        self, masks: Masks, objects: NDArray[np.int64], reasons: Mapping[int, str]
    ) -> Iterator[tuple[str, int, str]]:
        """Image file and id of each of these objects, and the reason why its mask cannot be used."""
        files = self.files[np.searchsorted(self.offsets, objects, side="right") - 1]
        for file, number, kind in zip(files, self.ids[objects].tolist(), masks.mask_types[objects], strict=True):
            default = "has no mask" if kind == NONE else "has a mask without a pixel in its image"
            yield file, number, reasons.get(number, default)

    def _take(self, objects: NDArray[np.int64]) -> DetectionAnnotations:
        """Keep these objects, and every image."""
        return replace(
            self,
            boxes=self.boxes[objects],
            labels=self.labels[objects],
            areas=self.areas[objects],
            crowd=self.crowd[objects],
            difficult=self.difficult[objects],
            ids=self.ids[objects],
            masks=None if self.masks is None else self.masks.take(objects),
        )


def concat_tables(tables: Sequence[DetectionAnnotations]) -> DetectionAnnotations:
    """Join tables, whose classes are matched by name; images are numbered anew where their ids occur twice."""
    classes = list(dict.fromkeys(name for table in tables for name in table.classes))
    parts = [table.relabel(classes) for table in tables]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("image_ids", "sizes", "boxes", "labels", "areas", "crowd", "difficult")
    }
    if len(np.unique(columns["image_ids"])) < len(columns["image_ids"]):
        columns["image_ids"] = np.arange(1, len(columns["image_ids"]) + 1)
    masks = None
    if all(part.masks is not None for part in parts):
        masks = join_masks([part.masks for part in parts if part.masks is not None])
    return replace(
        parts[0],
        **columns,
        category_ids=tuple(max(ids) for ids in zip(*(part.category_ids for part in parts), strict=True)),
        files=np.array([str(part.path(i).absolute()) for part in parts for i in range(len(part))], dtype=np.str_),
        offsets=_offsets(np.concatenate([np.diff(part.offsets) for part in parts])),
        ids=np.arange(1, len(columns["labels"]) + 1),
        masks=masks,
    )


@dataclass(frozen=True, eq=False)
class ImageColumns:
    """Columns of I images."""

    root: Path  # folder that ``files`` are relative to
    files: ArrayLike  # (I,) names
    ids: NDArray[Any]  # (I,) int64, or text
    sizes: NDArray[np.int32]  # (I, 2) height and width


@dataclass(frozen=True, eq=False)
class ObjectColumns:
    """Columns of N objects in any order."""

    image_index: NDArray[np.int64]  # (N,)
    boxes: NDArray[np.float64]  # (N, 4) xyxy
    labels: NDArray[np.int64]  # (N,) 0..K-1
    ids: NDArray[np.int64]  # (N,)
    areas: NDArray[np.float64] | None = None  # (N,) NaN or None: of the mask, else of the box inside the image
    crowd: NDArray[np.bool_] | None = None  # (N,)
    difficult: NDArray[np.bool_] | None = None  # (N,)
    masks: Masks | None = None


def from_columns(
    source: Path,
    category_ids: Mapping[str, int],
    images: ImageColumns,
    objects: ObjectColumns,
    issues: IssueCollector = FAIL_FAST,
) -> DetectionAnnotations:
    """Build ``DetectionAnnotations``; ``category_ids`` are the class names in the order of the labels, with their ids.

    Boxes without area inside their image are dropped, and reported as other issues of boxes are. The others stay as
    they are, also where they reach beyond it: an evaluation compares with the labels, and training clips.
    """
    names = np.asarray(images.files, dtype=np.str_)
    rows, boxes, masks, ids = objects.image_index, objects.boxes, objects.masks, objects.ids
    limits = np.tile(images.sizes[rows][:, ::-1], 2)
    clipped = boxes.clip(0, limits)
    width, height = (clipped[:, 2:] - clipped[:, :2]).T
    valid = (width > 0) & (height > 0)
    _report_objects(source, images, objects, clipped, issues)
    del limits, clipped  # the columns of a large data set take enough memory
    areas = np.full(len(boxes), np.nan) if objects.areas is None else objects.areas
    if masks is not None:
        missing = np.flatnonzero(np.isnan(areas) & (masks.mask_types != NONE))
        areas = areas.copy()
        areas[missing] = masks.areas(missing, images.sizes[rows[missing]])
    kept = np.flatnonzero(valid)[np.argsort(rows[valid], kind="stable")]
    flags = np.zeros(len(boxes), dtype=bool)
    return DetectionAnnotations(
        classes=tuple(category_ids),
        category_ids=tuple(category_ids.values()),
        root=images.root,
        files=names,
        image_ids=images.ids,
        sizes=images.sizes,
        offsets=_offsets(np.bincount(rows[kept], minlength=len(names))),
        boxes=boxes[kept],
        labels=objects.labels[kept],
        areas=np.where(np.isnan(areas), width * height, areas)[kept],
        crowd=(flags if objects.crowd is None else objects.crowd)[kept],
        difficult=(flags if objects.difficult is None else objects.difficult)[kept],
        ids=ids[kept],
        masks=None if masks is None else masks.take(kept),
    )


def _report_objects(
    source: Path, images: ImageColumns, objects: ObjectColumns, clipped: NDArray[np.float64], issues: IssueCollector
) -> None:
    """Report boxes with an issue, doubled objects and images. Raises DataError if most boxes go from 0 to 1."""
    names = np.asarray(images.files, dtype=np.str_)
    rows, boxes, ids = objects.image_index, objects.boxes, objects.ids
    normalized = looks_normalized(boxes, images.sizes[rows])
    if not issues.collects and len(boxes) and normalized.mean() > MAX_NORMALIZED:
        raise DataError(
            f"{source}: {normalized.sum()} of {len(boxes)} boxes have coordinates from 0 to 1 instead of pixels; "
            "`detseg check FOLDER --fix NEW_FOLDER` writes a copy in pixels"
        )
    if look_like_corners(boxes, images.sizes[rows]):
        message = f"{source}: most boxes reach beyond their image, and none does if its four numbers are two corners"
        issues.report("box-corners", source, f"{message}: write a corner or centre and a size, as the format has them")
    for i, kind, message in _box_issues(boxes, clipped, images.sizes[rows]):
        if kind == "box-normalised" and not issues.collects:
            kind = "box-tiny"
        path = images.root / names[rows[i]]
        box = tuple(boxes[i].tolist())
        issues.report(kind, path, f"{path} annotation {ids[i]}: {message}", int(ids[i]), box)
    for i, first in doubled_objects(rows, boxes, objects.labels, objects.masks):
        path = images.root / names[rows[i]]
        message = f"{path} annotation {ids[i]}: the same as annotation {ids[first]}"
        issues.report("object-doubled", path, message, int(ids[i]), tuple(boxes[i].tolist()))
    for name, count in zip(*np.unique(names, return_counts=True), strict=True):
        if count > 1:
            path = images.root / name
            issues.report("image-doubled", path, f"{path}: {source} lists this image {count} times")


def looks_normalized(boxes: NDArray[np.float64], sizes: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Mark boxes (N, 4) that look like fractions of their image instead of pixels; ``sizes`` are (N, 2)."""
    fractions = (np.abs(boxes) <= 1).all(axis=1) & (boxes != np.round(boxes)).any(axis=1)
    normalized: NDArray[np.bool_] = fractions & (sizes >= 8).all(axis=1)
    return normalized


def look_like_corners(boxes: NDArray[np.float64], sizes: NDArray[np.int32]) -> bool:
    """Tell if boxes (N, 4) look like corners that were read as a corner, or the centre, and a size (N, 2)."""
    limits = np.tile(sizes[:, ::-1], 2) + 1
    if len(boxes) < MIN_CORNERS or ((boxes < -1) | (boxes > limits)).any(axis=1).mean() <= 0.5:
        return False
    for start in (boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2):
        end = boxes[:, 2:] - boxes[:, :2]
        if ((start >= -1) & (start < end) & (end <= limits[:, :2])).all():
            return True
    return False


def _box_issues(
    boxes: NDArray[np.float64], clipped: NDArray[np.float64], sizes: NDArray[np.int32]
) -> Iterator[tuple[int, str, str]]:
    """Index, kind and message of each box (N, 4) with an issue; boxes of images of unknown size are left out."""
    sides, inside = boxes[:, 2:] - boxes[:, :2], clipped[:, 2:] - clipped[:, :2]
    remaining = (sizes > 0).all(axis=1)
    for kind, affected, message in (
        ("box-negative", (sides < 0).any(axis=1), "has its second corner before the first"),
        ("box-area", (sides == 0).any(axis=1), "has no area"),
        ("box-normalised", looks_normalized(boxes, sizes), "goes from 0 to 1, and would be less than a pixel large"),
        ("box-outside", (inside <= 0).any(axis=1), "lies outside of its image"),
        ("box-beyond", (np.abs(clipped - boxes) > 1).any(axis=1), "reaches beyond its image"),
        ("box-tiny", (inside < 1).any(axis=1), "has a side of less than a pixel"),
    ):
        for i in np.flatnonzero(affected & remaining):
            corners = ", ".join(f"{value:g}" for value in boxes[i])
            yield int(i), kind, f"box ({corners}) {message}; the image is {sizes[i][1]}x{sizes[i][0]}"
        remaining = remaining & ~affected


def _offsets(counts: NDArray[Any]) -> NDArray[np.int64]:
    """Index at which each group begins, and the total."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
