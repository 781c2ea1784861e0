"""The table that all annotations are, images with labels of named classes, and that of classification."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detseg.data.annotations.images import Orientation, read_image
from detseg.errors import DataError
from detseg.plural import counted

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ImageTable:
    """The I images of a split; subclasses add their labels."""

    classes: tuple[str, ...]  # names, in the order of the labels
    category_ids: tuple[int, ...]  # number of each class in the data set; -1 where it has none
    root: Path  # folder that ``files`` are relative to
    files: NDArray[np.str_]  # (I,)
    orientation: Orientation = field(default="shown", kw_only=True)  # of the images, where no size tells

    def __len__(self) -> int:
        """Count the images."""
        return len(self.files)

    def path(self, image: int) -> Path:
        """Path of one image."""
        return self.root / str(self.files[image])

    def read_image(self, image: int, size: tuple[int, int], labels: Path | None = None) -> NDArray[np.uint8]:
        """Read the pixels (h, w, 3) of an image of this labelled height and width, as ``images.read_image`` does."""
        return read_image(self.path(image), size, labels, self.orientation)

    def describe(self) -> str:
        """Summarise the data set in one line."""
        return f"{counted(len(self), 'image')}, {counted(len(self.classes), 'class')}"

    def fingerprint(self) -> str:
        """Return a digest of classes, images and labels in their order, wherever the folder is."""
        sha256 = hashlib.sha256()
        for part in (self, *(getattr(self, one.name) for one in fields(self))):
            # Label images have absolute paths, and may move with the folder.
            names = [one.name for one in fields(part)] if is_dataclass(part) and not isinstance(part, type) else []
            for value in (getattr(part, name) for name in names):
                if isinstance(value, np.ndarray) and (part is self or value.dtype.kind != "U"):
                    sha256.update(value.tobytes() if value.dtype != object else repr(value.tolist()).encode())
                elif isinstance(value, tuple):
                    sha256.update(repr(value).encode())
        return sha256.hexdigest()[:16]

    def subset(self, indices: ArrayLike) -> Self:
        """Keep some images with their labels, in the order of ``indices``."""
        raise NotImplementedError

    def relabel(self, classes: Sequence[str]) -> Self:
        """Renumber the labels to ``classes``, matching by name. Labels of other classes are left out, and logged.

        A name that the data does not have gets the category id -1.
        """
        if tuple(classes) == self.classes:
            return self
        position = {name: label for label, name in enumerate(classes)}
        ids = dict(zip(self.classes, self.category_ids, strict=True))
        table = replace(self, classes=tuple(classes), category_ids=tuple(ids.get(name, -1) for name in classes))
        labels = np.array([position.get(name, -1) for name in self.classes], dtype=np.int64)
        return table._renumber(labels, ", ".join(name for name in self.classes if name not in position))

    def _renumber(self, labels: NDArray[np.int64], unknown: str) -> Self:
        """Replace label k by ``labels[k]``, and leave out those that become -1: ``unknown`` are their classes."""
        raise NotImplementedError

    def require_images(self) -> None:
        """Raise DataError, which counts them and names the first, if image files are missing.

        Folders are listed, which takes a fraction of the time of asking for each file.
        """
        folders: dict[str, list[int]] = defaultdict(list)
        for image, file in enumerate(self.files.tolist()):
            folders[os.path.dirname(file)].append(image)
        missing: list[int] = []
        for folder, images in folders.items():
            try:
                present = set(os.listdir(self.root / folder))
            except OSError:
                present = set()
            unlisted = [image for image in images if os.path.basename(str(self.files[image])) not in present]
            missing += [image for image in unlisted if not self.path(image).exists()]  # a name may differ in capitals
        if missing:
            raise DataError(
                f"{self.path(min(missing))}: no such image; {len(missing)} of {len(self)} are missing: put them there, "
                "or take them out of the annotations"
            )


@dataclass(frozen=True, eq=False)
class ClassificationIndex(ImageTable):
    """The I images of a split, with one class each."""

    labels: NDArray[np.int64]  # (I,)

    def subset(self, indices: ArrayLike) -> ClassificationIndex:
        """Keep some images, by index or mask."""
        kept = np.asarray(indices)
        return replace(self, files=self.files[kept], labels=self.labels[kept])

    def _renumber(self, labels: NDArray[np.int64], unknown: str) -> ClassificationIndex:
        renumbered = labels[self.labels]
        known = renumbered >= 0
        if not known.all():
            left_out = counted(int((~known).sum()), "image")
            log.warning("%s: left out %s of other classes: %s", self.root, left_out, unknown)
        ids = tuple(range(len(self.classes)))  # folders have no numbers but these
        return replace(self, labels=renumbered, category_ids=ids).subset(known)
