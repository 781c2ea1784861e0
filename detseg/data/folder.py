"""A folder of which nobody says what it is: the format, the split and the images are found."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations
from detseg.data.bad_samples import BadSamples
from detseg.data.builder import Source
from detseg.data.coco import COCO
from detseg.data.coco_format import Split, holds_coco
from detseg.data.csv_format import find_csv
from detseg.data.detection import DetectionData
from detseg.data.labelme_format import find_labelme
from detseg.data.layout import Tree
from detseg.data.masks import MaskUse
from detseg.data.transforms import Transforms
from detseg.data.voc import VOC
from detseg.data.voc_format import holds_voc
from detseg.data.yolo_format import find_yolo
from detseg.errors import ConfigError, DataError

log = logging.getLogger(__name__)

WHOLE: dict[str, tuple[type[COCO] | type[VOC], Callable[[Path], bool]]] = {
    "COCO": (COCO, holds_coco),
    "VOC": (VOC, holds_voc),
}
FINDERS: dict[str, Callable[[Tree], list[Source]]] = {"YOLO": find_yolo, "LabelMe": find_labelme, "CSV": find_csv}
SOUGHT = (
    "COCO (.json with images, annotations, categories), VOC (a folder Annotations with .xml), YOLO (a .txt for each "
    "image, and data.yaml), LabelMe (a .json for each image), CSV (a header with filename, class, xmin, ymin, xmax and "
    "ymax)"
)


class Folder(DetectionData):
    """A folder in any format that is known: COCO, VOC, YOLO, LabelMe or CSV.

    ``format`` says which, where it holds labels in more than one; ``labels`` names one of several folders of YOLO
    labels, ``names`` the file in ``root`` with the names of their classes. A split that is there is used. Of a data
    set that is not split, ``val_fraction`` of the images are for validation, drawn by ``seed``; images that are the
    same byte by byte stay on one side (but COCO and VOC are split as the classes of these names do).

    Raises DataError for a folder that holds none of these, or more than one.
    """

    def __init__(
        self,
        root: str,
        format: str | None = None,
        labels: str | None = None,
        names: str | None = None,
        val_fraction: float = 0.2,
        seed: int = 0,
        transforms: Transforms | None = None,
        batch_size: int = 2,
        workers: int = 2,
        proposals: str | None = None,
        masks: MaskUse = "none",
        bad_samples: BadSamples = "error",
    ) -> None:
        super().__init__(transforms, batch_size, workers, proposals, masks, bad_samples)
        if format not in (None, *WHOLE, *FINDERS):
            raise ConfigError(f"data.format: {format}; there is {', '.join([*WHOLE, *FINDERS])}")
        self.root, self.format, self.labels, self.names = Path(root), format, labels, names
        self.val_fraction, self.seed = val_fraction, seed

    def read(self, split: Split) -> Annotations:
        """Read a split, or its part of a data set that is not split."""
        if not isinstance(self._found, Source):
            return self._found.read(split)
        if "all" in self._found.parts:
            return self._whole.subset(hold_out(self._whole, self.val_fraction, self.seed, split))
        part = "test" if split == "val" and "val" not in self._found.parts else split
        return self._found.parts[part]().with_masks(self.masks, {})

    def _match(self, annotations: Annotations) -> Annotations:
        """Number the classes in their order where the format has no numbers of its own for them."""
        matched = super()._match(annotations)
        numbered = self._found.numbered if isinstance(self._found, Source) else isinstance(self._found, COCO)
        return matched if numbered else replace(matched, category_ids=tuple(range(1, self.num_classes + 1)))

    @cached_property
    def _whole(self) -> Annotations:
        assert isinstance(self._found, Source)
        return self._found.parts["all"]().with_masks(self.masks, {})

    @cached_property
    def _found(self) -> Source | COCO | VOC:
        """What the folder is. Raises DataError unless it is one thing."""
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; give the place of your data")
        tree = Tree(self.root)
        found: list[tuple[str, Source | COCO | VOC]] = []
        for name, (data, holds) in WHOLE.items():
            if self.format in (None, name) and holds(self.root):
                found.append((name, data(str(self.root), val_fraction=self.val_fraction, masks=self.masks)))
        for name, find in (FINDERS | {"YOLO": partial(find_yolo, names=self.names)}).items():
            if self.format in (None, name):
                found += [(f"{name} in {one.place}", one) for one in find(tree)]
        if self.labels:
            found = [(name, one) for name, one in found if isinstance(one, Source) and one.place.name == self.labels]
        if len(found) == 1:
            name, one = found[0]
            parts = f" ({', '.join(one.parts)})" if isinstance(one, Source) else ""
            log.info("%s: taken for a data set in the format %s%s", self.root, name, parts)
            return one
        if found:
            raise DataError(
                f"{self.root}: it holds labels more than once: {'; '.join(name for name, _ in found)}. "
                "Say which with `--data.format YOLO` or another, and `--data.labels FOLDER` for one of several of YOLO"
            )
        suffixes: dict[str, int] = defaultdict(int)
        for file in tree.files:
            suffixes[Path(file).suffix or "no suffix"] += 1
        there = ", ".join(
            f"{count} {suffix}" for suffix, count in sorted(suffixes.items(), key=lambda one: -one[1])[:8]
        )
        raise DataError(
            f"{self.root}: no labels of a known format. Looked for {SOUGHT}. Found files: {there or 'none'}"
        )


def hold_out(annotations: Annotations, fraction: float, seed: int, split: Split) -> NDArray[np.int64]:
    """Rows of one side of a split by ``seed``: images that are the same byte by byte are on the same side.

    Raises ConfigError for a ``fraction`` that is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"data.val_fraction: {fraction} must be above 0 and below 1, such as 0.2")
    groups = identical([annotations.path(row) for row in range(len(annotations))])
    wanted = min(max(round(len(annotations) * fraction), 1), len(annotations) - 1)
    held_out: list[int] = []
    for number in np.random.default_rng(seed).permutation(len(groups)):
        if len(held_out) >= wanted:
            break
        held_out += groups[number]
    chosen = np.isin(np.arange(len(annotations)), held_out)
    return np.flatnonzero(chosen if split == "val" else ~chosen)


def identical(files: list[Path]) -> list[list[int]]:
    """Positions of files, grouped where they are the same byte by byte; only those of one size are read."""
    sizes: dict[int, list[int]] = defaultdict(list)
    groups: dict[tuple[int, str], list[int]] = defaultdict(list)
    for position, file in enumerate(files):
        try:
            sizes[file.stat().st_size].append(position)
        except OSError as error:
            raise DataError(f"{file}: cannot read this image: {error.strerror}") from None
    for size, positions in sizes.items():
        for position in positions:
            same = hashlib.sha256(files[position].read_bytes()).hexdigest() if len(positions) > 1 else ""
            groups[size, same].append(position)
    return sorted(groups.values())
