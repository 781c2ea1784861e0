"""Labels of a semantic segmentation data set: a class for each pixel of each image."""

from __future__ import annotations

import glob
import json
import logging
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.constants import IGNORE_INDEX
from detseg.data.annotations.images import SUFFIXES, check_pixels, image_size, read_numbers
from detseg.data.annotations.issues import FAIL_FAST, IssueCollector
from detseg.data.annotations.table import ImageTable
from detseg.errors import DataError

log = logging.getLogger(__name__)

MAX_CLASSES = IGNORE_INDEX  # the values of a byte besides IGNORE_INDEX
CLASS_FILES = ("classes.json", "classes.txt", "class_names.txt")
COMPRESSED = 15  # type of a compressed element of a .mat file
UNKNOWN = -1  # entry of a lookup table: a number of no class


class MaskSource(Protocol):
    """Source of semantic masks, such as files or polygons."""

    def read(self, index: int, issues: IssueCollector = FAIL_FAST) -> NDArray[np.uint8]:
        """Read the class of each pixel (h, w), in the order of the source's classes, or IGNORE_INDEX."""

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a mask."""

    def source(self, index: int) -> Path:
        """File of a mask."""


@dataclass(frozen=True, eq=False)
class SemanticAnnotations(ImageTable):
    """I images, each with a semantic mask of its size. Masks are read on demand."""

    rows: NDArray[np.int64]  # (I,) index of each image in ``maps``
    maps: MaskSource
    order: NDArray[np.uint8]  # (256,) label of each class in the order of ``maps``

    def source(self, image: int) -> Path:
        """File of the labels of one image."""
        return self.maps.source(int(self.rows[image]))

    def labels(self, image: int, issues: IssueCollector = FAIL_FAST) -> NDArray[np.uint8]:
        """Read the class of each pixel (h, w), 0..K-1, or IGNORE_INDEX. Raises DataError for a broken mask."""
        return cv2.LUT(self.maps.read(int(self.rows[image]), issues), self.order).astype(np.uint8, copy=False)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Heights and widths (I, 2), from the heads of files."""
        return np.array([self.maps.size(row) for row in self.rows.tolist()], dtype=np.int64).reshape(-1, 2)

    def counts(self) -> NDArray[np.int64]:
        """Count the pixels of each class in each image (I, K), void ones left out. Reads every mask."""
        rows = [np.bincount(self.labels(image).ravel(), minlength=256) for image in range(len(self))]
        return np.array(rows, dtype=np.int64).reshape(-1, 256)[:, : len(self.classes)]

    def subset(self, indices: ArrayLike) -> SemanticAnnotations:
        """Keep some images, in the order of ``indices``."""
        kept = np.asarray(indices, dtype=np.int64)
        return replace(self, files=self.files[kept], rows=self.rows[kept])

    def _renumber(self, labels: NDArray[np.int64], unknown: str) -> SemanticAnnotations:
        """Pixels of other classes become void."""
        if unknown:
            log.warning("%s: left out the pixels of other classes: %s", self.root, unknown)
        table = np.full(256, IGNORE_INDEX, dtype=np.uint8)
        table[: len(labels)] = np.where(labels < 0, IGNORE_INDEX, labels)
        return replace(self, order=table[self.order])


@dataclass(frozen=True, eq=False)
class JoinedMasks:
    """Masks of several tables, those of each behind the others'."""

    tables: tuple[SemanticAnnotations, ...]

    def read(self, index: int, issues: IssueCollector = FAIL_FAST) -> NDArray[np.uint8]:
        """Read the class of each pixel (h, w)."""
        table, row = self._locate(index)
        return table.labels(row, issues)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a mask."""
        table, row = self._locate(index)
        return table.maps.size(int(table.rows[row]))

    def source(self, index: int) -> Path:
        """File of a mask."""
        table, row = self._locate(index)
        return table.source(row)

    def _locate(self, index: int) -> tuple[SemanticAnnotations, int]:
        """Return the table of an index, and its row there."""
        for table in self.tables:
            if index < len(table):
                return table, index
            index -= len(table)
        raise IndexError(index)


def concat_semantic(tables: Sequence[SemanticAnnotations]) -> SemanticAnnotations:
    """Join tables, whose classes are matched by name."""
    classes = list(dict.fromkeys(name for table in tables for name in table.classes))
    parts = tuple(table.relabel(classes) for table in tables)
    files = [str(part.path(image).absolute()) for part in parts for image in range(len(part))]
    ids = [max(numbers) for numbers in zip(*(part.category_ids for part in parts), strict=True)]
    joined = semantic_masks(parts[0].root, classes, ids, parts[0].root, files, JoinedMasks(parts))
    return replace(joined, orientation=parts[0].orientation)


def semantic_masks(
    source: Path,
    classes: Sequence[str],
    category_ids: Sequence[int],
    root: Path,
    files: Sequence[str],
    maps: MaskSource,
) -> SemanticAnnotations:
    """Build annotations from images and ``maps`` in the same order.

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
    """Files with a number in each pixel, one for each image: one channel, a palette, or a .mat file of SBD."""

    paths: NDArray[np.str_]  # (I,)
    classes: int
    void: tuple[int, ...]  # numbers of void pixels
    numbers: tuple[int, ...] | None = None  # numbers of the classes, by default 0, 1 ...

    def read(self, index: int, issues: IssueCollector = FAIL_FAST) -> NDArray[np.uint8]:
        """Read the labels in a file. Raises DataError for a missing or broken file, and for a number of no class."""
        path = self.source(index)
        numbers = read_semantic_mask(path)
        table = np.full(256, UNKNOWN, dtype=np.int16)
        table[list(self.numbers or range(self.classes))] = np.arange(self.classes)
        table[list(self.void)] = IGNORE_INDEX
        unknown = cv2.LUT(numbers, (table == UNKNOWN).astype(np.uint8))
        if unknown.any():
            y, x = (int(place[0]) for place in unknown.nonzero())
            issues.report(
                "mask-undefined",
                path,
                f"{path}: the pixel at x {x}, y {y} has the label {numbers[y, x]}, but the classes are {self.named()}, "
                f"and void {' or '.join(map(str, sorted(set(self.void))))}; correct the labels or the list of classes",
            )
        return cv2.LUT(numbers, table.astype(np.uint8)).astype(np.uint8, copy=False)

    def named(self) -> str:
        """List the numbers of the classes."""
        return ", ".join(map(str, self.numbers)) if self.numbers else f"0 to {self.classes - 1}"

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a mask, from the head of its file where possible."""
        path = self.source(index)
        height, width = _read_mat(path).shape if path.suffix == ".mat" else image_size(path)
        return height, width

    def source(self, index: int) -> Path:
        """File of a mask."""
        return Path(str(self.paths[index]))


def read_semantic_mask(path: Path) -> NDArray[np.uint8]:
    """Read the number in each pixel (h, w) of a file of labels.

    Raises DataError for a missing or broken file, colours instead of numbers, and numbers above 255.
    """
    numbers = _read_mat(path) if path.suffix == ".mat" else read_numbers(path)
    if numbers.dtype.kind not in "bui" or numbers.ndim != 2:
        raise DataError(f"{path}: the labels must be one whole number for each pixel, not {numbers.dtype} values")
    if numbers.dtype.itemsize > 1 and numbers.size and (numbers.min() < 0 or numbers.max() > 255):
        raise DataError(f"{path}: the labels run from {numbers.min()} to {numbers.max()}, but must lie within 0 to 255")
    return numbers.astype(np.uint8, copy=False)


def _read_mat(path: Path) -> NDArray[np.generic]:
    """Read the class labels in a file of the Semantic Boundaries Dataset, without executing anything in it."""
    from scipy.io import loadmat

    try:
        with path.open("rb") as file:
            _check_inflated(path, file)
            truth = loadmat(file, variable_names=["GTcls"], squeeze_me=True, struct_as_record=True)["GTcls"]
        return np.asarray(truth["Segmentation"].item())
    except OSError as error:
        raise DataError(f"{path}: cannot read these labels: {error.strerror or error}") from None
    except DataError:
        raise
    except Exception as error:  # scipy's reader raises many kinds of errors for broken files
        raise DataError(f"{path}: not a file of SBD's labels, with GTcls.Segmentation in it: {error}") from None


def _check_inflated(path: Path, file: BinaryIO) -> None:
    """Raise DataError for a .mat file (version 5) whose compressed parts have more bytes than pixels are decoded."""
    file.seek(126)
    order: Literal["little", "big"] = "little" if file.read(2) == b"IM" else "big"
    total = 0
    while len(tag := file.read(8)) == 8:
        kind, count = (int.from_bytes(tag[place : place + 4], order) for place in (0, 4))
        if kind != COMPRESSED:
            file.seek(count, os.SEEK_CUR)
            continue
        inflater = zlib.decompressobj()
        content = file.read(count)
        while content and not inflater.eof:
            total += len(inflater.decompress(content, 1 << 20))
            content = inflater.unconsumed_tail
            check_pixels(path, total)
    file.seek(0)


def by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Map the stems of a folder's files with one of these suffixes to their names, in order.

    Raises DataError for a missing folder, and for two files of one stem.
    """
    try:
        names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in suffixes)
    except OSError as error:
        raise DataError(f"{folder}: cannot read this folder: {error.strerror}") from None
    files: dict[str, str] = {}
    for name in names:
        stem = name.rpartition(".")[0]
        if stem in files:
            raise DataError(f"{folder}: {files[stem]} and {name} differ in nothing but the ending; keep one of them")
        files[stem] = name
    return files


class ClassDefaults(NamedTuple):
    """Classes of a format whose folders need not name them."""

    names: tuple[str, ...] | None = None
    void: tuple[int, ...] = ()


def pair(
    root: Path,
    folders: tuple[Path, Path],
    defaults: ClassDefaults,
    stems: list[str] | None = None,
    issues: IssueCollector = FAIL_FAST,
) -> SemanticAnnotations:
    """Pair the images and the label images of two ``folders`` by their stems; ``root`` holds the class names.

    ``stems`` are the images to take, all by default. Raises DataError for one without a partner.
    """
    images, masks = folders
    image_files, label_files = by_stem(images, SUFFIXES), by_stem(masks, (".png",))
    if stems is None:
        stems = sorted(image_files.keys() | label_files.keys())
    for folder, files, what in ((images, image_files, "image"), (masks, label_files, "mask")):
        missing = [stem for stem in stems if stem not in files]
        others = f", and {len(missing) - 1} more" if len(missing) > 1 and not issues.collects else ""
        for stem in missing:
            other = next(folder.glob(f"{glob.escape(stem)}.*"), None)
            hint = f"{other.name} is there, but must be a .png" if other else "add or take out both"
            message = f"{folder / stem}: the {what} of this name is missing{others}; {hint}"
            issues.report("mask-missing", folder / stem, message)
    stems = [stem for stem in stems if stem in image_files and stem in label_files]
    source, classes, void = find_classes(root, *defaults)
    maps = LabelFiles(np.array([str(masks / label_files[stem]) for stem in stems], dtype=np.str_), len(classes), void)
    return semantic_masks(source, classes, range(len(classes)), images, [image_files[stem] for stem in stems], maps)


def find_classes(
    root: Path, default: Sequence[str] | None = None, void: Sequence[int] = ()
) -> tuple[Path, tuple[str, ...], tuple[int, ...]]:
    """Return the source of the class names, the names of the classes 0, 1 ..., and the numbers of void pixels.

    classes.txt has a name in each line; empty lines may follow. classes.json is a list of names, or has it as
    "classes", with the number of void pixels as "ignore_index"; 255 is void as well. Without a file, these are
    ``default`` and ``void``. Raises DataError for a broken file, and for no file without a default.
    """
    file = next((root / name for name in CLASS_FILES if (root / name).is_file()), None)
    if file is None:
        if default is None:
            raise DataError(f"{root}: it has no classes.txt with the name of a class in each line, nor a classes.json")
        return root, tuple(default), (*void, IGNORE_INDEX)
    try:
        text = file.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
        if file.suffix == ".txt":
            return file, _lines(file, text), (IGNORE_INDEX,)
        content = json.loads(text)
    except OSError as error:
        raise DataError(f"{file}: cannot read the names of the classes: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot read the names of the classes: {error}") from None
    content = content if isinstance(content, dict) else {"classes": content}
    names, ignored = content.get("classes"), content.get("ignore_index", IGNORE_INDEX)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: it has no list of names of classes")
    if not isinstance(ignored, int) or not len(names) <= ignored <= IGNORE_INDEX:
        raise DataError(
            f"{file}: ignore_index is {ignored!r}; it must be a number after the classes, at most {IGNORE_INDEX}"
        )
    return file, tuple(names), (ignored, IGNORE_INDEX)


def _lines(file: Path, text: str) -> tuple[str, ...]:
    """Read a name from each line. Raises DataError for an empty line, whose class would be unclear."""
    names = tuple(line.strip() for line in text.rstrip().splitlines())
    if "" in names:
        raise DataError(
            f"{file}: line {names.index('') + 1} is empty; each line names the class of its number, the first one 0: "
            "take it out, or name the class"
        )
    return names
