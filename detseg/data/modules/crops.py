"""Pictures of one thing each: the images of class folders, or the objects of a detection data set, cut out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.images import Orientation, read_image
from detseg.data.annotations.table import ClassificationIndex, ImageTable
from detseg.data.formats.image_folders import list_images
from detseg.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ClassificationCrops:
    """N pictures with a label each, read when they are needed."""

    classes: tuple[str, ...]
    files: list[Path]  # (N,)
    labels: NDArray[np.int64]  # (N,) 0..K-1
    boxes: NDArray[np.float64] | None = None  # (N, 4) xyxy, the part of each file that counts; None: all of it
    sizes: NDArray[np.int32] | None = None  # (N, 2) height and width of the files as the boxes were labelled
    orientation: Orientation = "shown"

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.files)

    def take(self, indices: NDArray[np.int64]) -> ClassificationCrops:
        """Keep the pictures of these indices."""
        return replace(
            self,
            files=[self.files[row] for row in indices],
            labels=self.labels[indices],
            boxes=None if self.boxes is None else self.boxes[indices],
            sizes=None if self.sizes is None else self.sizes[indices],
        )

    def batches(self, side: int, batch_size: int) -> Iterator[Tensor]:
        """All pictures in order as squares, (B, 3, side, side) uint8. Raises DataError, naming it, for a broken one."""
        for start in range(0, len(self), batch_size):
            images = [self.read(row, side) for row in range(start, min(start + batch_size, len(self)))]
            yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)

    def read(self, row: int, side: int) -> NDArray[np.uint8]:
        """Read one picture as a square (side, side, 3). Raises DataError, naming it, for a broken one."""
        if self.boxes is None or self.sizes is None:
            return square(read_image(self.files[row]), side)
        height, width = self.sizes[row].tolist()
        x1, y1, x2, y2 = surrounding(self.boxes[row], height, width)
        return square(read_image(self.files[row], (height, width), orientation=self.orientation)[y1:y2, x1:x2], side)


def surrounding(box: NDArray[np.float64], height: int, width: int) -> tuple[int, int, int, int]:
    """The square around a box, with what lies beside the object; moved into the image, or cut if that is smaller."""
    x1, y1, x2, y2 = box.clip(0, (width, height, width, height))
    side = max(1, round(max(x2 - x1, y2 - y1)))
    left = int(np.clip(round((x1 + x2 - side) / 2), 0, max(0, width - side)))
    top = int(np.clip(round((y1 + y2 - side) / 2), 0, max(0, height - side)))
    return left, top, min(left + side, width), min(top + side, height)


def shorter_side(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize an image (h, w, 3) so that its shorter side is ``side``."""
    height, width = image.shape[:2]
    scale = side / min(height, width)
    size = max(side, round(width * scale)), max(side, round(height * scale))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8)


def square(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The middle of an image (h, w, 3), its shorter side made ``side``."""
    resized = shorter_side(image, side)
    top, left = ((length - side) // 2 for length in resized.shape[:2])
    return resized[top : top + side, left : left + side]


def from_folder(root: Path, val_fraction: float, seed: int) -> tuple[ClassificationCrops, ClassificationCrops]:
    """Pictures to train and to validate on from ``root/train/CLASS`` and ``root/val/CLASS``, or from ``root/CLASS``.

    The latter are split: ``val_fraction`` of every class, drawn by ``seed``. Raises DataError for a folder without
    pictures.
    """
    splits = [name for name in ("train", "val") if (root / name).is_dir()]
    if splits == ["train"]:
        raise DataError(f"{root}: has a folder train and none val; both are needed, or the folders of classes alone")
    if len(splits) == 2:
        train = list_images(root / "train")
        val = list_images(root / "val").relabel(train.classes)
    else:
        whole = list_images(root)
        held_out = train_val_split(whole.labels, val_fraction, seed)
        train, val = whole.subset(~held_out), whole.subset(held_out)
    return from_images(train), from_images(val)


def from_annotations(annotations: DetectionAnnotations) -> ClassificationCrops:
    """The objects of a detection data set as pictures, without crowds and difficult ones."""
    kept = np.flatnonzero(~(annotations.crowd | annotations.difficult))
    images = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))[kept]
    return ClassificationCrops(
        annotations.classes,
        [annotations.path(image) for image in images],
        annotations.labels[kept],
        annotations.boxes[kept],
        annotations.sizes[images],
        annotations.orientation,
    )


def from_images(annotations: ImageTable) -> ClassificationCrops:
    """Whole images, with the class of the largest object of each; -1 without one, and for semantic masks."""
    labels = np.full(len(annotations), -1)
    if isinstance(annotations, ClassificationIndex):
        labels = annotations.labels
    elif isinstance(annotations, DetectionAnnotations):
        for image in range(len(annotations)):
            objects = annotations.objects(image)
            if objects.stop > objects.start:
                labels[image] = annotations.labels[objects][annotations.areas[objects].argmax()]
    return ClassificationCrops(annotations.classes, [annotations.path(row) for row in range(len(annotations))], labels)


def concat(parts: Sequence[ClassificationCrops]) -> ClassificationCrops:
    """Join pictures of the same classes, all of them whole or all of them crops."""
    with_boxes = all(part.boxes is not None for part in parts)
    return replace(
        parts[0],
        files=[file for part in parts for file in part.files],
        labels=np.concatenate([part.labels for part in parts]),
        boxes=np.concatenate([part.boxes for part in parts]) if with_boxes else None,
        sizes=np.concatenate([part.sizes for part in parts]) if with_boxes else None,
    )


def with_enough(
    train: ClassificationCrops, val: ClassificationCrops, count: int
) -> tuple[ClassificationCrops, ClassificationCrops]:
    """Keep the classes with ``count`` pictures to train and one to validate on; the log names the others.

    Raises DataError if less than two classes are left.
    """
    numbers = np.array([np.bincount(part.labels, minlength=len(train.classes)) for part in (train, val)])
    enough = (numbers[0] >= count) & (numbers[1] >= 1)
    few = [f"{train.classes[k]} ({n} + {m})" for k, (n, m) in enumerate(numbers.T) if n + m and not enough[k]]
    if few:
        log.warning(
            "left out %d classes with less than %d pictures to train or 1 to validate on: %s",
            *(len(few), count, ", ".join(few)),
        )
    if enough.sum() < 2:
        raise DataError(
            f"{enough.sum()} of {len(train.classes)} classes have {count} pictures to train and 1 to validate on; "
            "two classes at least are needed: give more pictures, or a smaller `min_count`"
        )
    new = np.where(enough, np.cumsum(enough) - 1, -1)
    classes = tuple(np.array(train.classes)[enough].tolist())
    parts = [part.take(np.flatnonzero(enough[part.labels])) for part in (train, val)]
    first, second = (replace(part, classes=classes, labels=new[part.labels]) for part in parts)
    return first, second


def train_val_split(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Choose samples for validation: ``fraction`` of every class, at least one, but never the last one."""
    generator = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        held_out[rows[: min(max(round(len(rows) * fraction), 1), len(rows) - 1)]] = True
    return held_out


def draw(labels: NDArray[np.int64], count: int, per_class: int, seed: int) -> NDArray[np.int64]:
    """Sample about ``count`` indices: the same share of every class, and at least ``per_class`` of each."""
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        chosen.append(rows[: max(round(len(rows) * count / len(labels)), per_class)])
    return np.sort(np.concatenate(chosen))
