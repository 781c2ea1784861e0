"""The embedded data set, drawn on first use, for trials without a download."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.semantic import SemanticAnnotations
from detseg.data.annotations.table import ClassificationIndex
from detseg.data.formats.voc.semantic import VocSemanticFormat
from detseg.data.modules.classification import ClassificationDataModule
from detseg.data.modules.detection import DetectionDataModule
from detseg.data.modules.segmentation import SegmentationDataModule
from detseg.data.modules.shapes_generator import CLASSES, write, write_crops
from detseg.data.splits import Split
from detseg.data.transforms import RandomHorizontalFlip, RandomResizedCrop, RandomScaleCrop, Resize, Transform
from detseg.errors import DataError

log = logging.getLogger(__name__)

VERSION = 1  # of the drawing
MARKER = "detseg_shapes.json"  # the settings that a folder was drawn from; no other program writes this file


class Shapes(DetectionDataModule):
    """Circles, rings, squares, stars and triangles, 160 pixels large, drawn from a seed into ``root`` where missing.

    ``train`` and ``val`` are the numbers of images. ``root`` holds them in COCO format, which is read, and again in VOC
    format, which ``VOC`` reads. Raises DataError if ``root`` holds something else, or shapes drawn from other settings:
    nothing is ever deleted, since another run may be reading it. The other arguments are those of
    ``DetectionDataModule``.
    """

    default_batch_size = 4

    def __init__(
        self, root: str = "datasets/shapes", train: int = 400, val: int = 100, seed: int = 0, **other: Any
    ) -> None:
        super().__init__(str(Path(root) / "coco"), "COCO", **other)
        self.settings = {"train": train, "val": val, "seed": seed}

    @staticmethod
    def default_transforms() -> list[Transform]:
        """Return a resizing to 128 of 160 pixels, flipped at random."""
        return [Resize(128, 160), RandomHorizontalFlip()]

    def read(self, split: Split) -> DetectionAnnotations:
        """Read the annotations of a split, drawing the data set first if need be."""
        self.prepare()
        return super().read(split)

    def prepare(self) -> None:
        """Draw the data set unless it was drawn from the same settings. Several processes may call this."""
        prepare(self.root.parent, self.settings, write)


class ShapesSegmentation(SegmentationDataModule):
    """The images of ``Shapes`` for semantic segmentation, with the background as the first class.

    As in VOC, the outlines of the shapes are void. Raises DataError as ``Shapes`` does. The other arguments are those
    of ``SegmentationDataModule``.
    """

    def __init__(
        self, root: str = "datasets/shapes", train: int = 400, val: int = 100, seed: int = 0, **other: Any
    ) -> None:
        labels = VocSemanticFormat(classes=["background", *CLASSES])
        super().__init__(str(Path(root) / "voc"), labels, **other)
        self.settings = {"train": train, "val": val, "seed": seed}

    @staticmethod
    def default_transforms() -> list[Transform]:
        """Return a random scale and a crop of 128 pixels, flipped at random."""
        return [RandomScaleCrop(size=128), RandomHorizontalFlip()]

    def read(self, split: Split) -> SemanticAnnotations:
        """Find the images of a split, drawing the data set first if need be."""
        prepare(self.root.parent, self.settings, write)
        return super().read(split)


class ShapeCrops(ClassificationDataModule):
    """The shapes one by one, each cropped with its surroundings: a small classification data set.

    ``train`` and ``val`` are the numbers of crops, shared evenly by the five classes and scaled to ``size`` pixels.
    ``split`` may name the training crops as those of validation; the other arguments are those of
    ``ClassificationDataModule``.
    """

    default_batch_size = 16

    def __init__(
        self,
        root: str = "datasets/shape_crops",
        train: int = 1500,
        val: int = 500,
        seed: int = 0,
        size: int = 48,
        **other: Any,
    ) -> None:
        transforms: list[Transform] = [RandomResizedCrop(size, scale=(0.6, 1.0)), RandomHorizontalFlip()]
        super().__init__(root, "ImageFolders", transforms=transforms, **other)
        self.settings = {"train": train, "val": val, "seed": seed, "size": size}

    def read(self, split: Split) -> ClassificationIndex:
        """List the images of a split, drawing them first if need be."""
        prepare(self.root, self.settings, write_crops)
        return super().read(split)


def prepare(root: Path, settings: dict[str, int], draw: Callable[..., None]) -> None:
    """Fill a folder with ``draw(root, **other)`` unless it was drawn from the same settings."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_name(f".{root.name}.lock")):
        if root.exists() and not (root.is_dir() and not any(root.iterdir())):
            _check(root, settings)
            return
        log.info("drawing %(train)d + %(val)d images of shapes", settings)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as folder:
            new = Path(folder, root.name)
            new.mkdir()
            draw(new, **settings)
            (new / MARKER).write_text(json.dumps({"version": VERSION, **settings}), encoding="utf-8")
            new.rename(root)  # atomic, and can replace an empty folder only


def _check(root: Path, settings: dict[str, int]) -> None:
    """Raise DataError unless a folder was drawn from these settings."""
    try:
        drawn = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(
            f"{root}: this holds other files than synthetic shapes (no readable {MARKER} in it); "
            "give another root, or remove it"
        ) from None
    wanted = {"version": VERSION, **settings}
    if drawn != wanted:
        raise DataError(
            f"{root}: the shapes in this folder were drawn from other settings ({drawn}, not {wanted}); "
            "give another root, or remove the folder"
        )
