"""Labels of a classification data set: one class for each image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ClassificationIndex:
    """The I images of a split, with one class each."""

    root: Path  # folder that ``files`` are relative to
    classes: tuple[str, ...]  # names, in the order of ``labels``
    files: NDArray[np.str_]  # (I,)
    labels: NDArray[np.int64]  # (I,)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Numbers of the classes: their positions."""
        return tuple(range(len(self.classes)))

    def __len__(self) -> int:
        """Count the images."""
        return len(self.files)

    def path(self, image: int) -> Path:
        """Path of one image."""
        return self.root / str(self.files[image])

    def subset(self, indices: NDArray[Any]) -> ClassificationIndex:
        """Keep some images, by index or mask."""
        return replace(self, files=self.files[indices], labels=self.labels[indices])

    def relabel(self, classes: Sequence[str]) -> ClassificationIndex:
        """Renumber the labels to ``classes``, matching by name. Images of other classes are left out and logged."""
        position = {name: label for label, name in enumerate(classes)}
        labels = np.array([position.get(name, -1) for name in self.classes], dtype=np.int64)[self.labels]
        known = labels >= 0
        if not known.all():
            others = ", ".join(name for name in self.classes if name not in position)
            log.warning("%s: left out %d images of other classes: %s", self.root, (~known).sum(), others)
        return replace(self, classes=tuple(classes), labels=labels).subset(known)

    def describe(self) -> str:
        """Summarise the data set in one line."""
        return f"{len(self)} images, {len(self.classes)} classes"
