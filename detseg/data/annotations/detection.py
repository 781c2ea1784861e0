"""The labels of a data set as flat arrays, which any number of worker processes share without copying."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.data.annotations.issues import collects, report
from detseg.data.annotations.masks import NONE, WITHOUT, MaskReading, Masks, concat_masks
from detseg.errors import MaskError

log = logging.getLogger(__name__)


ABSENT = ("has no mask", "has no polygon", "has segmentation = None")  # what is said of an object that never had one


@dataclass(frozen=True, eq=False)
class DetectionAnnotations:
    """I images with N objects, in original pixels, crowds and difficult objects included.

    The objects of image i are the rows ``offsets[i]`` to ``offsets[i + 1]`` of ``boxes`` and of the arrays after it.
    """

    classes: tuple[str, ...]  # names, in the order of ``labels``
    category_ids: tuple[int, ...]  # the data set's own number of each class; -1 where it has none
    root: Path  # folder that ``files`` are relative to
    files: NDArray[np.str_]  # (I,)
    image_ids: NDArray[Any]  # (I,) int64, or the file stems of VOC
    sizes: NDArray[np.int32]  # (I, 2) height and width, as labelled
    offsets: NDArray[np.int64]  # (I + 1,)
    boxes: NDArray[np.float64]  # (N, 4) xyxy
    labels: NDArray[np.int64]  # (N,) 0..K-1
    areas: NDArray[np.float64]  # (N,) of the mask where there is one, else of the box
    crowd: NDArray[np.bool_]  # (N,)
    difficult: NDArray[np.bool_]  # (N,)
    ids: NDArray[np.int64]  # (N,) the data set's own number of each object
    masks: Masks | None = None  # where they were asked for

    def __len__(self) -> int:
        """Count the images."""
        return len(self.files)

    def objects(self, image: int) -> slice:
        """Rows of the objects of one image."""
        return slice(int(self.offsets[image]), int(self.offsets[image + 1]))

    def path(self, image: int) -> Path:
        """Where the file of one image lies."""
        return self.root / str(self.files[image])

    def subset(self, rows: ArrayLike) -> DetectionAnnotations:
        """Keep the images of these rows with their objects, in the order of ``rows``."""
        images = np.asarray(rows, dtype=np.int64)
        counts = np.diff(self.offsets)[images]
        offsets = _offsets(counts)
        objects = np.arange(offsets[-1]) + np.repeat(self.offsets[images] - offsets[:-1], counts)
        kept = replace(
            self, files=self.files[images], image_ids=self.image_ids[images], sizes=self.sizes[images], offsets=offsets
        )
        return kept._take(objects)

    def describe(self) -> str:
        """Say in one line what there is."""
        empty = int((np.diff(self.offsets) == 0).sum())
        counts = (
            f"{len(self)} images ({empty} without objects), {len(self.labels)} objects, {len(self.classes)} classes"
        )
        flags = [f"{n} {name}" for name, n in (("crowd", self.crowd.sum()), ("difficult", self.difficult.sum())) if n]
        return counts + (f" ({', '.join(flags)})" if flags else "")

    def relabel(self, classes: Sequence[str]) -> DetectionAnnotations:
        """Renumber the labels to ``classes``, matching by name.

        Objects of other classes are dropped, and counted in the log. A name the data does not have gets the category
        id -1.
        """
        if tuple(classes) == self.classes:
            return self
        position = {name: label for label, name in enumerate(classes)}
        labels = np.array([position.get(name, -1) for name in self.classes], dtype=np.int64)[self.labels]
        own = dict(zip(self.classes, self.category_ids, strict=True))
        kept = replace(
            self,
            classes=tuple(classes),
            category_ids=tuple(own.get(name, -1) for name in classes),
            labels=labels,
        ).where(labels >= 0)
        if len(kept.labels) < len(self.labels):
            unknown = [name for name in self.classes if name not in position]
            dropped = len(self.labels) - len(kept.labels)
            log.warning("%s: left out %d objects of other classes: %s", self.root, dropped, ", ".join(unknown))
        return kept

    def where(self, kept: NDArray[np.bool_]) -> DetectionAnnotations:
        """Keep the objects for which ``kept`` (N,) is true, and every image."""
        return replace(self, offsets=_offsets(kept)[self.offsets])._take(np.flatnonzero(kept))

    def with_masks(self, use: MaskReading, reasons: Mapping[int, str]) -> DetectionAnnotations:
        """Take care that every object has a mask, if ``use`` asks for it: drop those without, or raise DataError.

        ``reasons`` say by the number of an object why it has none. One without a pixel in its image counts as none. It
        is also an error if nothing is left.
        """
        if use == "none" or (use == "any" and (self.masks is None or not collects())):
            return self
        masks = concat_masks([(NONE, b"")] * len(self.labels)) if self.masks is None else self.masks
        sizes = np.repeat(self.sizes, np.diff(self.offsets), axis=0)
        without = masks.blank(sizes)
        rows = np.flatnonzero(without)
        if collects():
            self._report_masks(masks, rows, reasons)
        if collects() or not len(rows):
            return replace(self, masks=masks)
        files = self.files[np.searchsorted(self.offsets, rows[:5], side="right") - 1]
        named = ", ".join(
            f"{file} annotation {number} "
            + reasons.get(number, "has no mask" if kind == NONE else "has a mask without a pixel in its image")
            for file, number, kind in zip(files, self.ids[rows[:5]].tolist(), masks.mask_types[rows[:5]], strict=True)
        )
        if use == "all":
            never = (masks.mask_types == NONE).all() and {*reasons.values()} <= {*ABSENT}
            way_on = WITHOUT if never else "correct them, or leave such objects out with masks='valid'"
            found = f"{len(rows)} of {len(self.labels)} objects have no mask that can be used"
            raise MaskError(f"{self.root}: {found}: {named}; {way_on}")
        if without.all():
            raise MaskError(f"{self.root}: none of {len(rows)} objects has a mask that can be used: {named}; {WITHOUT}")
        log.warning("%s: left out %d objects without a mask that can be used: %s", self.root, len(rows), named)
        return self.where(~without)

    def _report_masks(self, masks: Masks, without: NDArray[np.int64], reasons: Mapping[int, str]) -> None:
        """Report the masks of objects that cannot be used; that an object has none is no fault."""
        files = self.files[np.searchsorted(self.offsets, without, side="right") - 1]
        for file, number, kind in zip(files, self.ids[without].tolist(), masks.mask_types[without], strict=True):
            text = reasons.get(number, "has no mask" if kind == NONE else "has a mask without a pixel in its image")
            if text not in ABSENT:
                report("mask-broken", self.root / file, f"{self.root / file} annotation {number} {text}", number)

    def _take(self, objects: NDArray[np.int64]) -> DetectionAnnotations:
        """Keep these rows of the arrays with one row for each object."""
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


def pack(
    source: Path,
    *,
    classes: Sequence[str],
    category_ids: Sequence[int],
    root: Path,
    files: ArrayLike,
    image_ids: NDArray[Any],
    sizes: NDArray[np.int32],
    rows: NDArray[np.int64],
    boxes: NDArray[np.float64],
    labels: NDArray[np.int64],
    ids: NDArray[np.int64],
    areas: NDArray[np.float64] | None = None,
    crowd: NDArray[np.bool_] | None = None,
    difficult: NDArray[np.bool_] | None = None,
    masks: Masks | None = None,
) -> DetectionAnnotations:
    """Make ``DetectionAnnotations`` of objects in any order, each with the row of its image in ``rows``.

    Boxes without area inside their image are dropped; the log names ``source``, file and annotation id. The others stay
    as they are, also where they reach beyond it: an evaluation compares with what was labelled, and training clips.
    ``areas`` that are not given, or NaN, are those of the masks, or where there are none, of the boxes inside the
    image.
    """
    names = np.asarray(files, dtype=np.str_)
    limits = np.tile(sizes[rows][:, ::-1], 2)
    clipped = boxes.clip(0, limits)
    width, height = (clipped[:, 2:] - clipped[:, :2]).T
    valid = (width > 0) & (height > 0)
    if collects():
        _report_boxes(root, names[rows], ids, boxes, clipped, sizes[rows])
    elif not valid.all():
        dropped = ", ".join(f"{names[rows[i]]} annotation {ids[i]} {boxes[i].tolist()}" for i in np.flatnonzero(~valid))
        log.warning("%s: dropped %d boxes without area (xyxy): %s", source, (~valid).sum(), dropped)
    outside = int((valid & (np.abs(clipped - boxes) > 1).any(axis=1)).sum())
    if outside and not collects():
        log.warning("%s: %d boxes reach beyond their image by more than a pixel; training clips them", source, outside)
    del limits, clipped  # what there is of a large data set takes enough memory
    areas = np.full(len(boxes), np.nan) if areas is None else areas
    if masks is not None:
        missing = np.flatnonzero(np.isnan(areas) & (masks.mask_types != NONE))
        areas = areas.copy()
        areas[missing] = masks.areas(missing, sizes[rows[missing]])
    kept = np.flatnonzero(valid)[np.argsort(rows[valid], kind="stable")]
    flags = np.zeros(len(boxes), dtype=bool)
    return DetectionAnnotations(
        classes=tuple(classes),
        category_ids=tuple(category_ids),
        root=root,
        files=names,
        image_ids=image_ids,
        sizes=sizes,
        offsets=_offsets(np.bincount(rows[kept], minlength=len(names))),
        boxes=boxes[kept],
        labels=labels[kept],
        areas=np.where(np.isnan(areas), width * height, areas)[kept],
        crowd=(flags if crowd is None else crowd)[kept],
        difficult=(flags if difficult is None else difficult)[kept],
        ids=ids[kept],
        masks=None if masks is None else masks.take(kept),
    )


def looks_normalized(boxes: NDArray[np.float64], sizes: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which boxes (N, 4) look like shares of the image, from 0 to 1, where pixels are meant; ``sizes`` are (N, 2)."""
    fractions = (np.abs(boxes) <= 1).all(axis=1) & (boxes != np.round(boxes)).any(axis=1)
    found: NDArray[np.bool_] = fractions & (sizes >= 8).all(axis=1)
    return found


def _report_boxes(
    root: Path,
    files: NDArray[np.str_],
    ids: NDArray[np.int64],
    boxes: NDArray[np.float64],
    clipped: NDArray[np.float64],
    sizes: NDArray[np.int32],
) -> None:
    """Report the boxes (N, 4) that cannot be used as they are; those of images whose size is not known are left out."""
    sides, inside = boxes[:, 2:] - boxes[:, :2], clipped[:, 2:] - clipped[:, :2]
    known = (sizes > 0).all(axis=1)
    left = known
    for kind, found, text in (
        ("box-negative", (sides < 0).any(axis=1), "has its second corner before the first"),
        ("box-area", (sides == 0).any(axis=1), "has no area"),
        ("box-normalised", looks_normalized(boxes, sizes), "goes from 0 to 1, and would be less than a pixel large"),
        ("box-outside", (inside <= 0).any(axis=1), "lies outside of its image"),
        ("box-beyond", (np.abs(clipped - boxes) > 1).any(axis=1), "reaches beyond its image"),
        ("box-tiny", (inside < 1).any(axis=1), "has a side of less than a pixel"),
    ):
        for i in np.flatnonzero(found & left):
            corners = ", ".join(f"{value:g}" for value in boxes[i])
            size = f"{sizes[i][1]}x{sizes[i][0]}"
            told = f"{root / files[i]} annotation {ids[i]}: box ({corners}) {text}; the image is {size}"
            report(kind, root / files[i], told, int(ids[i]), tuple(boxes[i].tolist()))
        left = left & ~found


def _offsets(counts: NDArray[Any]) -> NDArray[np.int64]:
    """Where each group begins, and at the last place where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
