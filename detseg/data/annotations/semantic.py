"""The labels of a data set for semantic segmentation: a class for each pixel of each image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.data.annotations.class_names import find_classes
from detseg.data.annotations.images import SUFFIXES, image_size
from detseg.data.annotations.issues import collects, report
from detseg.errors import DataError
from detseg.structures import IGNORE_INDEX

log = logging.getLogger(__name__)

MAX_CLASSES = IGNORE_INDEX  # classes that a pixel of one byte can tell apart, besides IGNORE_INDEX
UNKNOWN = -1  # in a table of labels: a number that stands for no class


class MaskSource(Protocol):
    """Where the maps of labels come from: files, polygons ..."""

    def read(self, row: int) -> NDArray[np.uint8]:
        """The class of each pixel (h, w), in the order of the source's own classes, or IGNORE_INDEX."""

    def size(self, row: int) -> tuple[int, int]:
        """Height and width of a map."""

    def source(self, row: int) -> Path:
        """The file that a map comes from."""


@dataclass(frozen=True, eq=False)
class SemanticAnnotations:
    """I images, each with a map of labels of its size. Maps are read when they are asked for."""

    classes: tuple[str, ...]  # names, in the order of the labels
    category_ids: tuple[int, ...]  # the data set's own number of each class; -1 where it has none
    root: Path  # folder that ``files`` are relative to
    files: NDArray[np.str_]  # (I,)
    rows: NDArray[np.int64]  # (I,) where ``maps`` has each image
    maps: MaskSource
    order: NDArray[np.uint8]  # (256,) label of each class in the order of ``maps``

    def __len__(self) -> int:
        """Count the images."""
        return len(self.files)

    def path(self, image: int) -> Path:
        """Where the file of one image lies."""
        return self.root / str(self.files[image])

    def source(self, image: int) -> Path:
        """The file that the labels of one image come from."""
        return self.maps.source(int(self.rows[image]))

    def labels(self, image: int) -> NDArray[np.uint8]:
        """The class of each pixel (h, w), 0..K-1, or IGNORE_INDEX. Raises DataError for a broken map."""
        return cv2.LUT(self.maps.read(int(self.rows[image])), self.order).astype(np.uint8, copy=False)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Heights and widths (I, 2). Of files, the head of each is read."""
        return np.array([self.maps.size(row) for row in self.rows.tolist()], dtype=np.int64).reshape(-1, 2)

    def counts(self) -> NDArray[np.int64]:
        """Pixels of each class in each image (I, K), void ones left out. Reads every map."""
        rows = [np.bincount(self.labels(image).ravel(), minlength=256) for image in range(len(self))]
        return np.array(rows, dtype=np.int64).reshape(-1, 256)[:, : len(self.classes)]

    def subset(self, rows: ArrayLike) -> SemanticAnnotations:
        """Keep the images of these rows, in the order of ``rows``."""
        kept = np.asarray(rows, dtype=np.int64)
        return replace(self, files=self.files[kept], rows=self.rows[kept])

    def relabel(self, classes: Sequence[str]) -> SemanticAnnotations:
        """Renumber the labels to ``classes``, matching by name.

        Pixels of other classes become void, and the log names these classes. A name the data does not have gets the
        category id -1.
        """
        if tuple(classes) == self.classes:
            return self
        position = {name: label for label, name in enumerate(classes)}
        unknown = [name for name in self.classes if name not in position]
        if unknown:
            log.warning("%s: left out the pixels of other classes: %s", self.root, ", ".join(unknown))
        own = dict(zip(self.classes, self.category_ids, strict=True))
        table = np.full(256, IGNORE_INDEX, dtype=np.uint8)
        table[: len(self.classes)] = [position.get(name, IGNORE_INDEX) for name in self.classes]
        return replace(
            self,
            classes=tuple(classes),
            category_ids=tuple(own.get(name, -1) for name in classes),
            order=table[self.order],
        )

    def describe(self) -> str:
        """Say in one line what there is."""
        return f"{len(self)} images, {len(self.classes)} classes"


def semantic_masks(
    source: Path,
    classes: Sequence[str],
    category_ids: Sequence[int],
    root: Path,
    files: Sequence[str],
    maps: MaskSource,
) -> SemanticAnnotations:
    """Put together images and ``maps`` in the same order.

    Raises DataError, naming ``source``, unless there are 1 to 255 classes of different names.
    """
    if not 1 <= len(classes) <= MAX_CLASSES:
        raise DataError(f"{source}: it has {len(classes)} classes; there may be 1 to {MAX_CLASSES}")
    twice = [name for name in classes if classes.count(name) > 1]
    if twice:
        raise DataError(f"{source}: more than one class has the name {twice[0]!r}; make them differ")
    return SemanticAnnotations(
        classes=tuple(classes),
        category_ids=tuple(category_ids),
        root=root,
        files=np.array(files, dtype=np.str_),
        rows=np.arange(len(files)),
        maps=maps,
        order=np.arange(256, dtype=np.uint8),
    )


@dataclass(frozen=True, eq=False)
class LabelFiles:
    """One file for each image, with a number in each pixel: an image of one channel or a palette, or a .mat of SBD."""

    paths: NDArray[np.str_]  # (I,)
    classes: int
    void: tuple[int, ...]  # the numbers that are void
    numbers: tuple[int, ...] | None = None  # those that stand for the classes, by default 0, 1 ...

    def read(self, row: int) -> NDArray[np.uint8]:
        """The labels in a file. Raises DataError for one that is missing, broken, or has a number of no class."""
        path = self.source(row)
        numbers = read_numbers(path)
        table = np.full(256, UNKNOWN, dtype=np.int16)
        table[list(self.numbers or range(self.classes))] = np.arange(self.classes)
        table[list(self.void)] = IGNORE_INDEX
        unknown = cv2.LUT(numbers, (table == UNKNOWN).astype(np.uint8))
        if unknown.any():
            y, x = (int(place[0]) for place in unknown.nonzero())
            report(
                "mask-undefined",
                path,
                f"{path}: the pixel at x {x}, y {y} has the label {numbers[y, x]}, but the classes are {self.named()}, "
                f"and void {' or '.join(map(str, sorted(set(self.void))))}; correct the labels or the list of classes",
            )
        return cv2.LUT(numbers, table.astype(np.uint8)).astype(np.uint8, copy=False)

    def named(self) -> str:
        """Say which numbers stand for the classes."""
        return ", ".join(map(str, self.numbers)) if self.numbers else f"0 to {self.classes - 1}"

    def size(self, row: int) -> tuple[int, int]:
        """Height and width of the map, from the head of the file where that has it."""
        path = self.source(row)
        height, width = _read_mat(path).shape if path.suffix == ".mat" else image_size(path)
        return height, width

    def source(self, row: int) -> Path:
        """The file of a map."""
        return Path(str(self.paths[row]))


def read_numbers(path: Path) -> NDArray[np.uint8]:
    """The number in each pixel (h, w) of a file of labels.

    Raises DataError for a file that is missing, broken, holds colours in the place of numbers, or one above 255.
    """
    from PIL import Image

    if path.suffix == ".mat":
        numbers = _read_mat(path)
    else:
        try:
            with Image.open(path) as image:
                if image.mode in ("RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr"):
                    raise DataError(
                        f"{path}: the labels are colours ({image.mode}), but must be the number of the class of each "
                        "pixel, in an image of one channel or with a palette; convert them"
                    )
                numbers = np.array(image)
        except OSError as error:
            raise DataError(f"{path}: cannot read these labels: {error.strerror or error}") from None
        except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path}: cannot read these labels: {error}") from None
    if numbers.dtype.kind not in "bui" or numbers.ndim != 2:
        raise DataError(f"{path}: the labels must be one whole number for each pixel, not {numbers.dtype} values")
    if numbers.dtype.itemsize > 1 and numbers.size and (numbers.min() < 0 or numbers.max() > 255):
        raise DataError(f"{path}: the labels run from {numbers.min()} to {numbers.max()}, but must lie within 0 to 255")
    return numbers.astype(np.uint8, copy=False)


def _read_mat(path: Path) -> NDArray[np.generic]:
    """The labels of the classes in a file of the Semantic Boundaries Dataset. Reading it cannot execute anything."""
    from scipy.io import loadmat

    try:
        with path.open("rb") as file:
            truth = loadmat(file, variable_names=["GTcls"], squeeze_me=True, struct_as_record=True)["GTcls"]
        return np.asarray(truth["Segmentation"].item())
    except OSError as error:
        raise DataError(f"{path}: cannot read these labels: {error.strerror or error}") from None
    except Exception as error:  # scipy's reader meets broken files with many kinds of errors
        raise DataError(f"{path}: not a file of SBD's labels, with GTcls.Segmentation in it: {error}") from None


def by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """The names of the files of a folder with one of these suffixes, by their stems, in order.

    Raises DataError for a folder that is missing, or has two files of one stem.
    """
    try:
        names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in suffixes)
    except OSError as error:
        raise DataError(f"{folder}: cannot read this folder: {error.strerror}") from None
    found: dict[str, str] = {}
    for name in names:
        stem = name.rpartition(".")[0]
        if stem in found:
            raise DataError(f"{folder}: {found[stem]} and {name} differ in nothing but the ending; keep one of them")
        found[stem] = name
    return found


def pair(
    root: Path,
    images: Path,
    masks: Path,
    default: tuple[str, ...] | None = None,
    void: tuple[int, ...] = (),
    stems: list[str] | None = None,
) -> SemanticAnnotations:
    """Pair the images and the label images of two folders by their names; classes are found in ``root``.

    ``default`` and ``void`` are as in ``find_classes``; ``stems`` are the images to take, all by default. Raises
    DataError for one without a partner.
    """
    image_files, label_files = by_stem(images, SUFFIXES), by_stem(masks, (".png",))
    if stems is None:
        stems = sorted(image_files.keys() | label_files.keys())
    for folder, files, what in ((images, image_files, "image"), (masks, label_files, "labels")):
        missing = [stem for stem in stems if stem not in files]
        others = f", and of {len(missing) - 1} more" if len(missing) > 1 and not collects() else ""
        for stem in missing:
            told = f"{folder / stem}: the {what} of this name are missing{others}; add or take out both"
            report("mask-missing", folder / stem, told)
    stems = [stem for stem in stems if stem in image_files and stem in label_files]
    source, classes, void = find_classes(root, default, void)
    maps = LabelFiles(np.array([str(masks / label_files[stem]) for stem in stems], dtype=np.str_), len(classes), void)
    return semantic_masks(source, classes, range(len(classes)), images, [image_files[stem] for stem in stems], maps)
